"""One queue of the device scheduler, and what it remembers: pure values and their changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .kernels import Kernel, Launch, QueueId, Task


class Gate(StrEnum):
    """Whether the stream of a queue takes work."""

    OPEN = "open"
    CLOSING = "closing"  # it was told to stop, something may still run
    CLOSED = "closed"  # it is quiet, and must be told before it goes on
    PARKED = "parked"  # it had nothing on the device and was told nothing
    MENDING = "mending"  # only the rest of a torn kernel runs; what is frozen behind it waits


@dataclass(frozen=True, slots=True)
class Account:
    """What a queue has had and lost.

    again_blocks  blocks whose work a reset threw away
    padded_blocks blocks run beside real-time kernels
    held_ns       time for which the queue was kept off the device while it had work
    waited_ns     from submit to first launch, all tasks together; `waited_most_ns` of one
    """

    finished: int = 0
    preempted: int = 0
    evicted: int = 0
    torn: int = 0
    again_blocks: int = 0
    padded_blocks: int = 0
    held_ns: int = 0
    waited_ns: int = 0
    waited_most_ns: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue of tasks, of which the first is at work.

    next    the kernel of that task which is to be launched next
    done    how many of its kernels are complete; next - done launches are under way
    blocks  how many blocks of the first kernel not launched in full have run, or are about to
            beside a real-time kernel
    torn    kernel `done` was left in the middle
    frozen  launches that stay on the device behind a closed gate
    started whether anything of that task was ever launched
    """

    queue: QueueId
    tasks: tuple[Task, ...] = ()
    next: int = 0
    done: int = 0
    blocks: int = 0
    gate: Gate = Gate.OPEN
    torn: bool = False
    frozen: int = 0
    started: bool = False
    closed_ns: int = 0
    account: Account = Account()

    @property
    def depth(self) -> int:
        """Launches handed to the device that have not come back."""
        return self.next - self.done

    @property
    def head(self) -> Kernel:
        return self.tasks[0].kernels[self.done]

    def launch(self) -> tuple[Lane, Launch]:
        """Hand out what is left of the next kernel."""
        task = self.tasks[0]
        kernel = task.kernels[self.next]
        first = self.blocks if self.next == self.done else 0
        left = kernel.blocks - first
        launch = Launch(self.queue, task.id, self.next, kernel, first, left)
        return replace(self, next=self.next + 1), launch

    def has_next(self) -> bool:
        return bool(self.tasks) and self.next < len(self.tasks[0].kernels)

    def pad(self, blocks: int) -> tuple[Lane, Launch, bool]:
        """Hand out `blocks` of the next kernel to run beside another; True: that completes it."""
        task = self.tasks[0]
        kernel = task.kernels[self.next]
        launch = Launch(self.queue, task.id, self.next, kernel, self.blocks, blocks)
        account = replace(self.account, padded_blocks=self.account.padded_blocks + blocks)
        if whole := self.blocks + blocks == kernel.blocks:
            return replace(self, next=self.next + 1, blocks=0, account=account), launch, whole
        return replace(self, blocks=self.blocks + blocks, account=account), launch, whole

    def complete(self) -> tuple[Lane, Task | None]:
        """The kernel at the head is complete; with the task that this finished, if it did."""
        done = self.done + 1
        task = self.tasks[0]
        if done < len(task.kernels):
            return replace(self, done=done, blocks=0, torn=False), None
        account = replace(self.account, finished=self.account.finished + 1)
        rest = self.tasks[1:]
        return replace(
            self,
            tasks=rest,
            next=0,
            done=0,
            blocks=0,
            torn=False,
            started=False,
            account=account,
        ), task

    def tear(self, ran: int, again: int) -> Lane:
        """The kernel at the head was left after `ran` more of its blocks, `again` of the others
        had been begun in vain."""
        account = replace(
            self.account,
            torn=self.account.torn + 1,
            again_blocks=self.account.again_blocks + again,
        )
        return replace(self, blocks=self.blocks + ran, torn=True, account=account)

    def evict(self, index: int) -> Lane:
        """Launch `index` came back without having begun."""
        account = replace(self.account, evicted=self.account.evicted + 1)
        return replace(self, next=min(self.next, index), account=account)

    def settle(self) -> Lane:
        """The stream is quiet. A torn kernel with nothing behind it is simply launched again."""
        if self.torn and self.depth == 1:
            return replace(self, next=self.done, torn=False, frozen=0, gate=Gate.CLOSED)
        return replace(self, frozen=self.depth, gate=Gate.CLOSED)

    def mend(self) -> tuple[Lane, Launch]:
        """Hand out the rest of the torn kernel, to run while all behind it stays frozen."""
        task = self.tasks[0]
        left = self.head.blocks - self.blocks
        launch = Launch(self.queue, task.id, self.done, self.head, self.blocks, left)
        return replace(self, gate=Gate.MENDING, frozen=0), launch

    def held(self, now_ns: int) -> Lane:
        """Book the time since the gate was closed."""
        if not self.tasks:
            return self
        account = replace(self.account, held_ns=self.account.held_ns + now_ns - self.closed_ns)
        return replace(self, account=account)

    def begun(self, now_ns: int) -> Lane:
        """Book how long the task at the head has waited for its first launch."""
        if self.started:
            return self
        wait_ns = now_ns - self.tasks[0].submitted_ns
        account = replace(
            self.account,
            waited_ns=self.account.waited_ns + wait_ns,
            waited_most_ns=max(self.account.waited_most_ns, wait_ns),
        )
        return replace(self, started=True, account=account)
