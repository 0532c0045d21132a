"""A dump in a thread of its own, while the cut's loop goes on answering the lead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from singularity.primitives.errors import HandFailed
from singularity.primitives.model import ShardImage

from .barrier import Dumped

log = logging.getLogger(__name__)


class Dumping:
    """The Dumper of one cut. `save(step, seconds)` dumps and stores, and adds what parts took."""

    def __init__(self, save: Callable[[int, dict[str, float]], ShardImage]) -> None:
        self._save, self._began_s = save, time.monotonic()
        self._state, self._reason = Dumped.NOT_YET, ""
        self.image: ShardImage | None = None
        self.seconds: dict[str, float] = {}

    def begin(self, step: int) -> None:
        self.seconds["barrier"] = time.monotonic() - self._began_s
        threading.Thread(target=self._run, args=(step,), daemon=True).start()

    def state(self) -> tuple[Dumped, str]:
        return self._state, self._reason

    def _run(self, step: int) -> None:
        try:
            self.image = self._save(step, self.seconds)
            self._state = Dumped.DURABLE
        except HandFailed as error:
            self._reason, self._state = error.detail, Dumped.FAILED
        except Exception as error:
            log.exception("dump failed in a way nobody thought of")
            self._reason, self._state = f"{type(error).__name__}: {error}", Dumped.FAILED
