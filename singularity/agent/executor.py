"""Performs what react() asks for: one Hands per job, each with its own ranks and its own pace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from singularity.primitives.errors import SandboxFailed
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId

from .answers import Cooled, Ended
from .aside import Shadow, forget
from .core import Life
from .effects import Effect, Kill, Launch, LetGo
from .hands import Hands, nothing
from .replica import Replica
from .runtime.sandbox import Sandbox
from .sharing import Sharer
from .tools import Answer, Tools

log = logging.getLogger(__name__)


class Executor:
    """Effects in, Done out (through `answer`), never blocking the caller."""

    def __init__(self, tools: Tools, answer: Answer) -> None:
        self._tools, self._answer = tools, answer
        self._hands: dict[JobId, Hands] = {}
        self._lock = threading.Lock()

    def adopt(self, live: Mapping[JobId, Life]) -> frozenset[tuple[JobId, int]]:
        """Take over the ranks that outlived an earlier agent; kill what the journal does not know.

        Returns the jobs all of whose ranks are there (alive, or with a record of their end).
        """
        found = self._sandboxes()
        whole = set()
        for job, life in sorted(live.items()):
            ranks = {
                r: found.pop(p) for r in life.start.ranks if (p := self._path(life, r)) in found
            }
            beside = life.start.aside is not None  # whoever compared them is gone
            if len(ranks) < len(life.start.ranks) or not life.started or beside:
                _end(ranks.values())
                if beside:
                    forget(self._tools.layout, life.start)
                continue
            hands = self._make(life.start)
            hands.adopt(ranks)
            self._hands[job] = hands
            hands.start()
            whole.add((job, life.start.incarnation))
        known = {(job, life.start.incarnation) for job, life in live.items()}
        self._tools.handovers.recall(known, found)
        _end(found.values())
        return frozenset(whole)

    def perform(self, effect: Effect) -> None:
        with self._lock:
            if isinstance(effect, LetGo):
                self._let_go(effect)
                return
            if isinstance(effect, Kill):
                self._kill(effect)
                return
            if isinstance(effect, Launch):
                made = self._hands[effect.start.job] = self._make(effect.start)
                made.start()
            if (hands := self._hands.get(effect.start.job)) is not None:
                hands.put(effect)

    def freeze(self) -> None:
        """Stop every rank where it is: contact was lost, a second life may begin elsewhere."""
        for hands in self._known():  # also those that have yet to kill what they leave behind
            hands.freeze()

    def thaw(self) -> None:
        for hands in self._known():
            hands.thaw()

    def kill_all(self) -> None:
        """Kill every rank and wait until none is left. For a node that starts anew."""
        for hands in self._alive():
            start = hands.start_command
            hands.kill(Kill(start.job, start.incarnation, grace_s=0.0))
        for hands in self._known():
            hands.join()
        self._tools.handovers.clear()
        self._tools.images.recent.clear()
        self._tools.warm.clear()

    def abandon(self) -> None:
        """Let go of every rank without touching it, as an agent that dies does."""
        for hands in self._alive():
            hands.abandon()
        for hands in self._known():
            hands.join()

    def tend(self) -> None:
        """Now and then: nobody may be short of memory for what is merely convenient, nor for jobs
        that are over."""
        with self._lock:
            over = [j for j, h in self._hands.items() if h.ended and not h.is_alive()]
            for job in over:
                del self._hands[job]
        self._tools.images.recent.room()
        for job, incarnation in self._tools.warm.room():
            self._answer(Cooled(job, incarnation), nothing)

    def pages(self) -> Mapping[JobId, int]:
        """The furthest step of each job here, for progress shown between checkpoints."""
        return {h.start_command.job: h.step() for h in self._alive()}

    def _make(self, start: Start) -> Hands:
        kind = Shadow if start.aside else Replica if start.serving else Hands
        return kind(self._tools, start, self._answer)

    def sharers(self) -> list[Sharer]:
        """Ranks here that have shares of devices."""
        return [sharer for hands in self._alive() for sharer in hands.sharers()]

    def logs(self) -> list[Path]:
        """Where the ranks here print to."""
        starts = [hands.start_command for hands in self._alive()]
        return [self._tools.layout.log(start.job, rank) for start in starts for rank in start.ranks]

    def _kill(self, kill: Kill) -> None:
        hands = self._hands.get(kill.job)
        known = hands is not None and hands.start_command.incarnation == kill.incarnation
        if hands is not None and known and not hands.ended:
            hands.kill(kill)
            return
        done = Ended(kill.job, kill.incarnation, killed=True)
        threading.Thread(target=self._answer, args=(done, nothing), daemon=True).start()

    def _let_go(self, effect: LetGo) -> None:
        """Beside the caller: to end ranks that stood here takes a while."""

        def let_go() -> None:
            self._tools.handovers.let_go(effect.job, effect.incarnation)
            self._tools.warm.let_go(effect.job, effect.incarnation)

        threading.Thread(target=let_go, name="let-go", daemon=True).start()

    def _known(self) -> list[Hands]:
        with self._lock:
            return list(self._hands.values())

    def _alive(self) -> list[Hands]:
        return [h for h in self._known() if not h.ended]

    def _path(self, life: Life, rank: int) -> Path:
        return self._tools.layout.sandbox(life.start, rank)

    def _sandboxes(self) -> dict[Path, Sandbox]:
        directory = self._tools.layout.sandboxes
        directory.mkdir(parents=True, exist_ok=True)
        adopted = {p: Sandbox.adopt(p) for p in sorted(directory.iterdir())}
        return {p: s for p, s in adopted.items() if s is not None}


def _end(sandboxes: Iterable[Sandbox]) -> None:
    """As far as it can be: an agent has more to do than to wait for the kernel."""
    for sandbox in sandboxes:
        try:
            sandbox.remove()
        except SandboxFailed as error:
            log.error("left to the kernel: %s", error.detail)
