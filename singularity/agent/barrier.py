"""A gang's consistent cut, as pure functions of what its nodes see. No I/O, no clock.

Every node of the gang looks at the control pages of its own ranks and sends that View to the
lead (the first node of the gang); the lead answers each View with its Order. Both are
level-triggered: a lost, repeated or late message changes nothing but the time it takes, and the
lead can forget everything and be told again.

The cut itself: a stop T ahead of every rank is written to every page. A node agrees to T only
when none of its ranks can be past it; if one may be, T moves further ahead. When every rank holds
at T, T is committed and the ranks park there: until then all can simply go on, after that all are
at rest. Then every node dumps its parked ranks; only when all dumps are durable may ranks be
released, and when one fails all of them go on as if nothing had been. A message that was sent
before T and is received after it cannot be finished by ranks at rest: T moves on until there is
none.

Where a rank counts no mini-batches, all of the gang have a stop each instead of T (closure.py):
they hold at once, who is behind goes on, and what is committed is where each of them holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from singularity.primitives.model import Unable
from singularity.primitives.nodes import NodeId

from . import closure
from .closure import Stand
from .interposer.page import Clock

MARGIN_FIRST = 2  # mini-batches between the furthest rank and the first stop
MARGIN_MOST = 1024  # collectives may come every tenth of a millisecond


class Verdict(StrEnum):
    GATHER = "gather"  # hold, park and dump: no decision yet
    FINISH = "finish"  # every dump is durable: release or go on, as the command says
    ABORT = "abort"  # somebody could not: everybody goes on


class Dumped(StrEnum):
    NOT_YET = "not-yet"
    DURABLE = "durable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class View:
    """What one node knows of its ranks.

    step     the furthest mini-batch any of its ranks has come to
    moment   how far its ranks are, in all their lives
    agreed   the stop that all of its ranks are certain to hold at, 0 for none
    held     the stop that all of its ranks do hold at, 0 for none
    parked   the step all of its ranks are parked at, 0 while any is not; steps start at 1
    free     its ranks have no boundary to hold at (a single process): cut it anywhere
    clock    by what all of its ranks can be held
    stands   its ranks one by one, where each has a stop of its own, or if they have sent or
             received messages
    reason   why the dump failed; before that, whom the node is waiting for
    unable   whether it would always fail so
    """

    node: NodeId
    step: int = 0
    moment: int = 0
    clock: int = Clock.STEPS
    stands: tuple[Stand, ...] = ()
    agreed: int = 0
    held: int = 0
    parked: int = 0
    free: bool = False
    dumped: Dumped = Dumped.NOT_YET
    reason: str = ""
    unable: Unable | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What the lead wants of every node: hold at `stop`; park there when it is `commit`. Where
    ranks have `stops` of their own, those say where; `commit` is what that moment is called then.
    `reason` says why it was aborted; before that, why ranks that held were not committed."""

    stop: int = 0
    commit: int = 0
    stops: tuple[tuple[str, int], ...] = ()
    verdict: Verdict = Verdict.GATHER
    reason: str = ""
    unable: Unable | None = None

    def of(self, who: str) -> tuple[int, int]:
        """Where that rank shall hold, and where park. Who is not known yet holds at once."""
        if not self.stops:
            return self.stop, self.commit
        at = dict(self.stops).get(who)
        return (self.stop, 0) if at is None else (at, at if self.commit else 0)


@dataclass(frozen=True, slots=True)
class CutState:
    """The lead's memory of one cut; `views` is the last of each node."""

    gang: tuple[NodeId, ...]
    order: Order = Order()
    margin: int = MARGIN_FIRST
    views: Mapping[NodeId, View] = field(default_factory=dict)


def react(cut: CutState, view: View) -> CutState:
    """Fold one node's view into the cut; the answer to the node is `.order`."""
    assert view.node in cut.gang, view.node
    cut = replace(cut, views={**cut.views, view.node: view})
    if cut.order.verdict is not Verdict.GATHER:
        return cut
    views = [cut.views[n] for n in cut.gang if n in cut.views]
    if failed := next((v for v in views if v.dumped is Dumped.FAILED), None):
        return _decide(cut, Verdict.ABORT, f"{failed.node}: {failed.reason}", failed.unable)
    if len(views) < len(cut.gang):
        return cut
    if all(v.dumped is Dumped.DURABLE for v in views):
        return _decide(cut, Verdict.FINISH)
    return _aim(cut, views)


def give_up(cut: CutState, reason: str) -> CutState:
    """The deadline passed. A decision already made stands."""
    if cut.order.verdict is not Verdict.GATHER:
        return cut
    why = next((f": {v.node}: {v.reason}" for n in cut.gang if (v := _view(cut, n)).reason), "")
    why = f": {cut.order.reason}" if cut.order.reason else why
    return _decide(cut, Verdict.ABORT, reason + why)


def _decide(
    cut: CutState, verdict: Verdict, reason: str = "", unable: Unable | None = None
) -> CutState:
    order = replace(cut.order, verdict=verdict, reason=reason, unable=unable)
    return replace(cut, order=order)


def _view(cut: CutState, node: NodeId) -> View:
    return cut.views.get(node) or View(node, reason="was not heard")


def _aim(cut: CutState, views: list[View]) -> CutState:
    """Choose a stop, move it when somebody may be past it, commit it when all hold there."""
    order = cut.order
    if order.commit or all(v.free for v in views):
        return cut
    clock = min(v.clock for v in views)
    if order.stops or clock == Clock.CROSSINGS:
        return _gather(cut, views)
    if clock != Clock.STEPS:
        return cut  # some have not come to a boundary yet
    if parked := max(v.parked for v in views):  # an earlier lead committed this and forgot
        return replace(cut, order=replace(order, stop=parked, commit=parked))
    if order.stop and all(v.held == order.stop for v in views):
        if late := closure.under_way(stand for v in views for stand in v.stands):
            return replace(cut, order=replace(order, stop=order.stop + 1, reason=late))
        return replace(cut, order=replace(order, commit=order.stop, reason=""))
    furthest = max(v.step for v in views)
    if order.stop > furthest or (order.stop and order.stop == _all_agree(views, order.stop)):
        return cut  # still ahead of everybody: wait for the answers
    margin = min(cut.margin * 2, MARGIN_MOST) if order.stop else cut.margin
    return replace(cut, margin=margin, order=replace(order, stop=furthest + margin))


def _gather(cut: CutState, views: list[View]) -> CutState:
    """Let those go on who are behind, and commit where all hold when nobody is. A node that has not
    told of its ranks yet tells when it has heard that each has a stop of its own."""
    stands = [stand for v in views for stand in v.stands]
    if all(v.stands for v in views) and closure.at_rest(stands):
        held = {stand.who: stand.count for stand in stands}
        moment = max(1, _moment(views))
        order = replace(cut.order, stop=1, commit=moment, stops=tuple(sorted(held.items())))
    else:
        told = closure.stops(stands, dict(cut.order.stops))
        order = replace(cut.order, stop=1, stops=tuple(sorted(told.items())))
    return replace(cut, order=order)


def _moment(views: list[View]) -> int:
    """Mini-batches, where any rank trains."""
    return max((v.step > 0, v.moment) for v in views)[1]


def _all_agree(views: list[View], stop: int) -> int:
    """`stop` when no node has run past it: those at it hold there."""
    return stop if all(v.step < stop or v.agreed == stop for v in views) else 0
