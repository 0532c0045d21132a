"""A replica of a service: asked over HTTP whether it answers, and given time to end well."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Mapping
from typing import Final

from singularity.primitives.messages import Start

from . import health, ports
from .answers import Answers, Done, Hung
from .hands import Hands, nothing
from .health import Health, Patience
from .interposer.page import Page
from .runtime.sandbox import Sandbox
from .tools import Answer, Tools

_ASK_FIRST_S: Final = 0.1  # between two questions, until there was a good answer
_ASK_AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.05


class Replica(Hands):
    """One rank, which listens on a port of the node's own network."""

    def __init__(self, tools: Tools, start: Start, answer: Answer) -> None:
        super().__init__(tools, start, answer)
        self._prober: Prober | None = None
        self._told = self._given_up = False

    def adopt(self, ranks: Mapping[int, Sandbox]) -> None:
        super().adopt(ranks)
        self._probe()

    def _launch(self) -> Done | None:
        done = super()._launch()
        if done is None and self._ranks:
            self._probe()
        return done

    def _probe(self) -> None:
        start, tools = self.start_command, self._tools
        assert start.serving is not None
        (sandbox,) = self._ranks.values()
        patience = Patience(tools.ready_s, start.hang_after_s or tools.silent_s)
        address = (tools.host, ports.chosen(sandbox.directory))
        self._prober = Prober(address, start.serving.health, patience)
        self._prober.start()

    def _look(self) -> Done | None:
        ended, prober = super()._look(), self._prober
        if ended is not None or prober is None:
            return ended
        start = self.start_command
        if self._overseer.frozen:
            prober.excuse()
        elif prober.ready and not self._told:
            self._told = True
            self._answer(Answers(start.job, start.incarnation, prober.endpoint), nothing)
        elif (reason := prober.hung()) and not self._given_up:
            self._given_up = True
            self._keep_stacks(reason)
            self._answer(Hung(start.job, start.incarnation, reason), nothing)
        return None

    def _fresh(self, seconds: dict[str, float]) -> None:
        """What waits here for this life has only to be woken."""
        start, began_s = self.start_command, time.monotonic()
        sandbox = self._tools.warm.take(start)
        if sandbox is None:
            super()._fresh(seconds)
            return
        self._ranks[0], self._pages[0] = sandbox, Page(self._page_path(0))
        sandbox.thaw()
        seconds["wake"] = time.monotonic() - began_s

    def _part(self) -> bool:
        """Let the program wait, or end what it is answering; unless it hangs, or nothing here
        counts."""
        super()._part()
        start, serving = self.start_command, self.start_command.serving
        assert serving is not None
        if self._order.stacks:
            return False
        may_wait = self._order.warm and self._ranks and not self._tools.fixed
        if may_wait and self._tools.warm.keep(start, self._ranks[0]):
            self._ranks.clear()
            return True
        for sandbox in self._ranks.values():
            sandbox.send(signal.SIGTERM)
        told_s = time.monotonic()
        while any(s.alive() for s in self._ranks.values()):
            grace_s = self._order.grace_s  # asked each time: it may be told again, and less
            over = time.monotonic() - told_s >= (
                serving.grace_s if grace_s is None else min(grace_s, serving.grace_s)
            )
            if over or self._abandoned.wait(_LOOK_S):
                break
        return False

    def _clear(self) -> None:
        if self._prober is not None:
            self._prober.stop()
        super()._clear()


class Prober(threading.Thread):
    """Asks at its own pace, one question at a time: a program that answers one request after the
    other answers this one when it gets to it."""

    def __init__(self, address: tuple[str, int], path: str, patience: Patience) -> None:
        super().__init__(name=f"prober-{address[1]}", daemon=True)
        self._address, self._path, self._patience = address, path, patience
        self._health = Health(time.monotonic())
        self._lock = threading.Lock()
        self._stop_asked = threading.Event()

    @property
    def endpoint(self) -> str:
        host, port = self._address
        return f"{host}:{port}"

    @property
    def ready(self) -> bool:
        return self._health.ready

    def hung(self) -> str:
        return health.hung(self._health, self._patience, self._path, time.monotonic())

    def excuse(self) -> None:
        with self._lock:
            self._health = health.excused(self._health, time.monotonic())

    def stop(self) -> None:
        self._stop_asked.set()

    def run(self) -> None:
        wait_s = 0.0
        while not self._stop_asked.wait(wait_s):
            if self._ask():
                with self._lock:
                    self._health = health.answered(self._health, time.monotonic())
            wait_s = _ASK_AGAIN_S if self.ready else _ASK_FIRST_S

    def _ask(self) -> bool:
        line = http.client.HTTPConnection(*self._address, timeout=self._patience.silent_s)
        try:
            line.request("GET", self._path, headers={"Connection": "close"})
            with line.getresponse() as answer:
                return 200 <= answer.status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            line.close()
