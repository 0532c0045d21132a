"""Replicas that wait: stopped in memory, without devices, for their next life on this node.

Nobody waits for a program to load that has been here before. It is never needed, only quicker: a
life that finds nothing here begins afresh. What waits goes when the control plane has no more use
for it, when memory becomes scarce, and with the agent.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from singularity.primitives.messages import Start
from singularity.primitives.model import JobId

from .gpu import users
from .layout import Layout
from .recent import Held, Standing, to_drop
from .runtime.sandbox import Sandbox
from .scratch import Memory, memory, resident_bytes

_LOOK_S: Final = 0.05
_END_S: Final = 5.0  # for one that waited and has to go: nobody waits for what it would do


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The only rank of the life that `start` began."""

    start: Start
    rank: Standing
    held: Held


class Warm:
    """Of one node, one a job. Thread-safe. `look` tells how much memory there is."""

    def __init__(self, layout: Layout, look: Callable[[], Memory] = memory) -> None:
        self._layout, self._look = layout, look
        self._lock = threading.Lock()
        self._waiting: dict[JobId, _Waiting] = {}

    def keep(self, start: Start, sandbox: Sandbox) -> bool:
        """Stop whatever is in it, and keep it; False where it has to end: it holds memory of a
        device, or memory is scarce. A share of a device is given to others, with its place."""
        if start.share is not None or sandbox.pid is None or any(users(sandbox)):
            return False
        held = Held(start.job, resident_bytes(sandbox), time.monotonic())
        gone, _ = to_drop([held], held.at_s, self._look(), kept_s=math.inf)
        if gone:
            return False
        sandbox.freeze()
        page = self._layout.page(start.job, 0)
        kept = page.with_name(f"{page.stem}.{start.incarnation}.warm")
        page.rename(kept)
        with self._lock:
            self._waiting[start.job] = _Waiting(start, Standing(sandbox, kept), held)
        return True

    def take(self, start: Start) -> Sandbox | None:
        """What waits here for this life, still stopped, and where both look for it; one that would
        run another program, or in another way, is ended."""
        found = self._pop(start.job)
        if found is None:
            return None
        sandbox = found.rank.sandbox
        if sandbox.alive() and _anew(found.start) == _anew(start):
            found.rank.page.rename(self._layout.page(start.job, 0))
            sandbox.rename(self._layout.sandbox(start, 0))
            return sandbox
        _end(found)
        return None

    def let_go(self, job: JobId, incarnation: int) -> None:
        """Lives after `incarnation` begin elsewhere, or none will. Takes a while."""
        with self._lock:
            found = self._waiting.get(job)
            if found is None or found.start.incarnation > incarnation:
                return
            del self._waiting[job]
        _end(found)

    def room(self) -> tuple[tuple[JobId, int], ...]:
        """End what has to go, the oldest first, for others to have enough memory: lives that wait
        no more. What has died is one of them."""
        with self._lock:
            held = [w.held for w in self._waiting.values()]
            dead = [j for j, w in self._waiting.items() if not w.rank.sandbox.alive()]
        gone, _ = to_drop(held, time.monotonic(), self._look(), kept_s=math.inf)
        found = [w for job in {*gone, *dead} if (w := self._pop(job)) is not None]
        for waiting in found:
            threading.Thread(target=_end, args=(waiting,), name="cool", daemon=True).start()
        return tuple((w.start.job, w.start.incarnation) for w in found)

    def clear(self) -> None:
        """Nothing waits on return."""
        with self._lock:
            jobs = list(self._waiting)
        for job in jobs:
            if (found := self._pop(job)) is not None:
                found.rank.end()

    def _pop(self, job: JobId) -> _Waiting | None:
        with self._lock:
            return self._waiting.pop(job, None)


def _end(waiting: _Waiting) -> None:
    """It is told, and given a little time, as one that rests without being kept."""
    sandbox, told_s = waiting.rank.sandbox, time.monotonic()
    sandbox.send(signal.SIGTERM)
    sandbox.thaw()
    while sandbox.alive() and time.monotonic() - told_s < _END_S:
        time.sleep(_LOOK_S)
    waiting.rank.end()


def _anew(start: Start) -> Start:
    """What two lives of a replica must have in common for one process to serve for both."""
    return start.model_copy(update={"incarnation": 1, "secret": "", "papers": None})
