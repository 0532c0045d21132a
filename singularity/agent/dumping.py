"""A dump in a thread of its own, while the cut's loop goes on answering the lead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from singularity.primitives.errors import CannotCarry, HandFailed
from singularity.primitives.messages import Start
from singularity.primitives.model import ShardImage, Unable

from .barrier import Dumped
from .gang import CutRef
from .runtime.sandbox import Sandbox

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taking:
    """One node's part in one cut, for the engine that makes it durable.

    step      mini-batches completed, where the ranks are not held at least so many; `seconds` is
              where to add what parts took
    given_up  the gang does not wait for it any more; `waiting` is told what it waits for
    """

    start: Start
    ref: CutRef
    step: int
    ranks: Mapping[int, Sandbox]
    seconds: dict[str, float]
    given_up: Callable[[], bool]
    waiting: Callable[[str], None]


class Dumping:
    """The Dumper of one cut. `save` makes it durable; `step` tells how far the ranks are, in all
    their lives."""

    def __init__(
        self,
        save: Callable[[Taking], ShardImage],
        start: Start,
        ref: CutRef,
        ranks: Mapping[int, Sandbox],
        step: Callable[[], int],
    ) -> None:
        self._save, self._began_s = save, time.monotonic()
        self._start, self._ref, self._ranks, self._step = start, ref, ranks, step
        self._state, self._reason = Dumped.NOT_YET, ""
        self._given_up = threading.Event()
        self.unable: Unable | None = None
        self.image: ShardImage | None = None
        self.seconds: dict[str, float] = {}

    def moment(self) -> int:
        return self._step()

    def begin(self, moment: int) -> None:
        self.seconds["barrier"] = time.monotonic() - self._began_s
        taking = Taking(
            start=self._start,
            ref=self._ref,
            step=moment,
            ranks=self._ranks,
            seconds=self.seconds,
            given_up=self._given_up.is_set,
            waiting=self._wait,
        )
        threading.Thread(target=self._run, args=(taking,), daemon=True).start()

    def state(self) -> tuple[Dumped, str]:
        return self._state, self._reason

    def give_up(self) -> None:
        """The cut is over. A dump by CRIU goes on to its end all the same, for nothing may
        interrupt it."""
        self._given_up.set()

    def _wait(self, what: str) -> None:
        self._reason = what

    def _run(self, taking: Taking) -> None:
        try:
            self.image = self._save(taking)
            self._reason, self._state = "", Dumped.DURABLE
        except HandFailed as error:
            if isinstance(error, CannotCarry):
                self.unable = Unable.NODE if error.here else Unable.JOB
            self._reason, self._state = error.detail, Dumped.FAILED
        except Exception as error:
            log.exception("dump failed in a way nobody thought of")
            self._reason, self._state = f"{type(error).__name__}: {error}", Dumped.FAILED
