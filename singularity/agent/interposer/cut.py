"""The rank's side of a cut: count mini-batches, hold where told, park, come back.

The agents agree on a step out of band, or on a place for each rank (agent/closure.py); no
collective is added to the job. What a rank must do is publish its step, and what it has come to,
before it looks at `stop` and `halt`. An agent that wrote `stop` a millisecond ago and still reads a
lower step then knows that this rank will see it (see Page.acknowledges).
"""

from __future__ import annotations

import ctypes
import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch.optim import Optimizer

from . import digest
from .deals import Deal, Tally
from .descriptors import sockets
from .groups import Links
from .page import CROSSINGS, HALT, STEP, STOP, Command, Page, ParkRecord, State

_HOLD_POLL_S: Final = 0.001
_PARK_POLL_S: Final = 0.005


class Rank:
    """This process, as its agent sees it through the page."""

    def __init__(self, page: Page, links: Links) -> None:
        self.page = page
        self.take(links)
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._last_optimizer = 0
        self._note_at = 0  # the step at which to note the hash of the parameters

    def take(self, links: Links) -> None:
        """Begin to count, with connections that are all to come."""
        self.links = links
        self._slots = links.slots
        self._step = self.page.step = 0
        self._crossings = self.page.crossings = 0
        self._tally = Tally()
        self._tally.publish(self.page)
        links.witness, links.counted = self, self._count_groups

    def boundary(self, optimizer: Optimizer, *_: object) -> None:
        """Count one mini-batch and stop here if told to. Called after every optimizer step.

        This is all that a running job pays per step, a third of a microsecond: the page's longs
        are moved here and not by its properties, each of which takes a tenth.
        """
        page, longs = self.page, self.page.longs
        self._crossings = longs[CROSSINGS] = count = self._crossings + 1
        self._step = longs[STEP] = step = self._step + 1
        if id(optimizer) != self._last_optimizer:
            self._optimizers.add(optimizer)
            self._last_optimizer = id(optimizer)
        if step == self._note_at:
            digest.note(page, step, self._values())
        if 0 < longs[STOP] <= step or 0 < longs[HALT] <= count:
            self._hold(step)
        if step == 1:
            page.state = State.RUNNING
        slot = page.slot
        if slot >= 0 or self._slots.number >= 0:
            self.links.turns.clear()
            self._follow(slot)

    def come(self, deal: Deal | None) -> None:
        """Before whatever is done with others: a boundary for gangs in which not everybody trains.
        Where each may be held is for the agents to say, who see what all have begun (deals.py)."""
        page, longs = self.page, self.page.longs
        self._crossings = longs[CROSSINGS] = count = self._crossings + 1
        if 0 < longs[HALT] <= count:
            self._hold(0)
        if deal is not None:
            self._tally.begin(page, deal)
        if not self._step:  # else it follows at its mini-batches
            slot = page.slot
            if slot >= 0 or self._slots.number >= 0:
                self._follow(slot)

    def begin(self, deal: Deal, times: int = 1) -> None:
        self._tally.begin(self.page, deal, times)

    def met(self) -> None:
        """The gang is connected for the first time."""
        self.page.generation = self.page.rendezvous["generation"]
        self.page.state = State.RUNNING
        self._follow(self.page.slot)

    def leave(self) -> None:
        """The interpreter shuts down."""
        self.page.state = State.EXITED
        self._slots.close()

    def become_child(self) -> None:
        """After a fork, in the child: it has no page, no slot and no connection. It may become a
        member of a family (see seams.py), which begins anew."""
        self.page.detach()
        self.links.drop_in_child()

    def _count_groups(self, groups: int) -> None:
        self.page.groups = groups

    def _follow(self, slot: int) -> None:
        self.links.follow(slot)
        self.page.turn = slot

    def _hold(self, step: int) -> None:
        """Wait at this boundary until the agents commit it, raise it, or call the cut off. `step`
        is the mini-batch that has just ended, 0 in the middle of one."""
        page, count = self.page, self._crossings
        with self._slots.yielded():
            page.state = State.HOLDING
            while page.settle != count and not 0 < step == page.commit:
                if not (0 < page.halt <= count or 0 < page.stop <= step):
                    page.state = State.RUNNING
                    return
                time.sleep(_HOLD_POLL_S)
            self._park(self._step or count)

    def _park(self, count: int) -> None:
        """Close every socket, wait to be dumped, killed or resumed; then reconnect."""
        began_s = time.monotonic()
        page, connected = self.page, self.links.store.connected
        self.links.drop()
        self._slots.close()
        page.turn = -1
        gc.collect(1)
        if sockets():  # a reference cycle may hold one; looking for old cycles takes 0.1 s
            gc.collect()
        _trim()
        left = sockets()
        record = ParkRecord(
            step=count,
            sockets=left,
            tensors=tuple(sorted(set(self._tensors()))),
            teardown_s=time.monotonic() - began_s,
        )
        record.save(page.path)
        page.command = Command.RUN  # who is woken twice takes only the first
        while page.command != Command.RESUME:
            if page.state != State.PARKED:  # just parked, or restored onto a fresh page
                page.step, page.crossings = self._step, self._crossings
                self._tally.publish(page)
                page.groups, page.sockets = self.links.count, len(left)
                page.state = State.PARKED
            time.sleep(_PARK_POLL_S)
        page.state = State.REBUILDING
        page.command = Command.RUN
        rendezvous = page.rendezvous
        self._note_at = rendezvous.get("note", 0)
        if connected:
            self.links.connect(rendezvous)
        page.step, page.crossings = self._step, self._crossings
        self._tally.publish(page)
        page.generation = rendezvous["generation"]
        page.state = State.RUNNING

    def _tensors(self) -> Iterator[tuple[int, int]]:
        """Address and bytes of what every rank holds alike: weights, gradients, moments."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state.get(parameter, {})
                    for value in (parameter, parameter.grad, *state.values()):
                        yield from _extent(value)

    def _values(self) -> Iterator[torch.Tensor]:
        """What the training has come to: parameters, and what their optimizer keeps of them."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state.get(parameter, {})
                    for value in (parameter, *state.values()):
                        if isinstance(value, torch.Tensor):
                            yield value


def _extent(value: Any) -> Iterator[tuple[int, int]]:
    if not isinstance(value, torch.Tensor):
        return
    local = getattr(value, "_local_tensor", value)  # a DTensor's own shard
    if local.device.type == "cpu" and local.layout == torch.strided:
        storage = local.untyped_storage()
        if storage.nbytes():
            yield storage.data_ptr(), storage.nbytes()


def _trim() -> None:
    """Give freed memory back to the system: what is not resident is not dumped."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
