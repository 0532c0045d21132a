"""The Work that the job holds in place of the communicator's own.

A real gloo Work keeps its communicator, and with it every socket, alive for as long as anybody
holds it, and DDP's reducer and user variables do. The proxy lets go of it at a park and answers
from what it kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from torch.autograd import Variable
from torch.distributed import Work
from torch.futures import Future

from .slots import Slots

T = TypeVar("T")

_SWEEP_MIN: Final = 64  # proxies
_NO_TIMEOUT: Final = timedelta(0)  # what torch passes for "as long as the group's timeout"


class ProxyWork(Work):
    """One outstanding operation; the same to its holder before and after a park."""

    # No __init__ and no dictionary: there is one for every collective. _error and _source are set
    # when the operation is settled.
    __slots__ = ("_error", "_future", "_source", "_turns", "_work")
    _work: Work | None
    _turns: Turns
    _future: Future[Any] | None
    _source: int
    _error: RuntimeError | None

    @classmethod
    def of(cls, work: Work, turns: Turns) -> ProxyWork:
        proxy = cls()
        proxy._work, proxy._turns, proxy._future = work, turns, None
        return proxy

    def wait(self, timeout: timedelta | None = _NO_TIMEOUT) -> bool:
        work = self._work
        if work is None:
            return self._answer()
        timeout = _NO_TIMEOUT if timeout is None else timeout
        slots = self._turns.slots
        if slots.held and not work.is_completed():
            with slots.yielded():
                return work.wait(timeout)
        return work.wait(timeout)

    def get_future(self) -> Future[Any]:
        if self._future is None:
            if self._work is None:
                raise RuntimeError("this operation has no future")
            self._future = self._work.get_future()
            if self._turns.slots.held:
                self._turns.before_reducer_waits(self._work)
        return self._future

    def is_completed(self) -> bool:
        return self._work is None or self._work.is_completed()

    def is_success(self) -> bool:
        return self._error is None if self._work is None else self._work.is_success()

    def exception(self) -> Any:
        return self._error if self._work is None else self._work.exception()

    def result(self) -> list[Any]:
        if self._work is not None:
            return self._work.result()
        self._answer()
        value: list[Any] = self.get_future().value()
        return value

    def synchronize(self) -> None:
        self.wait()

    def block_current_stream(self) -> None:
        if self._work is not None:
            self._work.block_current_stream()

    def source_rank(self) -> int:
        return self._source if self._work is None else self._work._source_rank()

    def _source_rank(self) -> int:
        return self.source_rank()

    def settle(self) -> None:
        """Wait for the operation, keep what its holder may still ask, let go of the real one."""
        work = self._work
        if work is None:
            return
        self._error = None
        try:
            work.wait()
        except RuntimeError as error:  # the holder's to see, when it waits
            self._error = error.with_traceback(None)  # its frames would hold the real Work
        self._source = _optional(work._source_rank, -1)
        if self._future is None:
            self._future = _optional(work.get_future, None)
        self._work = None

    def _answer(self) -> bool:
        if self._error is not None:
            raise self._error
        return True


class Outstanding:
    """The proxies that somebody may still hold. Adding one is on the path of every collective."""

    def __init__(self) -> None:
        self._proxies: list[weakref.ref[ProxyWork]] = []
        self._sweep_at = _SWEEP_MIN

    def add(self, proxy: ProxyWork) -> None:
        """Remember `proxy` for as long as its holder does."""
        self._proxies.append(weakref.ref(proxy))
        if (seen := len(self._proxies)) >= self._sweep_at:
            # In place, and only what was seen: another thread may be adding.
            self._proxies[:seen] = [p for p in self._proxies[:seen] if p() is not None]
            self._sweep_at = _SWEEP_MIN + 2 * len(self._proxies)  # constant cost per proxy

    def settle(self) -> None:
        """Settle all of them; see ProxyWork.settle()."""
        for known in self._proxies:
            proxy = known()
            if proxy is not None:
                proxy.settle()
        self._proxies.clear()


class Turns:
    """Hands the slot over at the end of a backward pass.

    DDP's reducer takes the future of each bucket during the backward pass and blocks on all of
    them, in C++, in a callback that the autograd engine runs when the pass is over. Our callback
    is queued with the first bucket, so it runs just before: all computation of the pass is
    issued, and nothing has blocked yet.
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._pending: list[Work] = []

    def before_reducer_waits(self, work: Work) -> None:
        """Note one bucket; its rank's slot is free from the end of the pass until it is done."""
        self._pending.append(work)
        if torch._C._current_autograd_node() is None:
            # Nothing is computed any more, so whoever took the future waits next. The reducer
            # does so in the first pass of a static graph, from a callback of its own.
            self.wait_aside()
        elif len(self._pending) == 1:
            Variable._execution_engine.queue_callback(self.wait_aside)

    def wait_aside(self) -> None:
        """Wait for the noted operations while the slot's other ranks compute."""
        pending, self._pending = self._pending, []
        with self.slots.yielded():
            for work in pending:
                work.wait()

    def clear(self) -> None:
        """Forget what a pass that raised has left behind."""
        self._pending.clear()


def _optional(ask: Callable[[], T], otherwise: T) -> T:
    """The answer, or `otherwise` where this kind of Work has none."""
    try:
        return ask()
    except RuntimeError:
        return otherwise
