"""A simulated node's part in cuts: the production barrier over pages that are attributes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from singularity.agent.answers import CutFailed, Done, Ended, Saved
from singularity.agent.barrier import CutState, Dumped, Order, Verdict, View, give_up
from singularity.agent.barrier import react as hear
from singularity.agent.effects import TakeCut
from singularity.primitives.messages import Cut
from singularity.primitives.model import Engine, JobId, ShardImage, Unable

from . import keeping
from .physics import Ranks

if TYPE_CHECKING:
    from .hands import Machine

_ROUND_S: Final = 2.0  # between two questions to the lead of a cut
_MEET_S: Final = 2.0  # until a gang that was woken has found each other again

Ref = tuple[JobId, int, int]  # job, incarnation, cut


@dataclass(slots=True)
class _Cutting:
    """One node's part in one cut. `asked` numbers its questions: only the last is answered."""

    cut: Cut
    order: Order = Order()
    begun: bool = False
    dumped: Dumped = Dumped.NOT_YET
    reason: str = ""
    unable: Unable | None = None
    image: ShardImage | None = None
    asked: int = 0

    @property
    def ref(self) -> Ref:
        return (self.cut.job, self.cut.incarnation, self.cut.cut)


@dataclass(slots=True)
class _Led:
    """A cut this node leads; `saved` is the order on its disk."""

    cut: CutState
    deadline_s: float
    saved: Order = Order()


class Cuts:
    """The cuts one node takes part in, and those it leads."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._world = machine, machine.world
        self._cuttings: dict[JobId, _Cutting] = {}
        self._leads: dict[Ref, _Led] = {}

    def clear(self) -> None:
        self._cuttings.clear()

    def drop(self, job: JobId) -> None:
        self._cuttings.pop(job, None)

    def restart(self) -> None:
        """Of the agent: what it leads is as its disk has it."""
        self.clear()
        for led in self._leads.values():
            led.cut = CutState(led.cut.gang, order=led.saved)

    def dumping(self, ranks: Ranks) -> bool:
        cutting = self._cuttings.get(ranks.start.job)
        return cutting is not None and cutting.begun and cutting.dumped is Dumped.NOT_YET

    def outlives(self, ranks: Ranks) -> bool:
        """Is a cut in flight that goes on to its end though the ranks have come to theirs? What a
        program saved itself is good without it; its peers, released first, may have taken it along.
        """
        cutting = self._cuttings.get(ranks.start.job)
        return cutting is not None and cutting.cut.engine is Engine.COOPERATIVE

    def _broken(self, cutting: _Cutting) -> bool:
        ranks = self._machine.ranks[cutting.cut.job]
        return ranks.gone and not self.outlives(ranks)

    def take(self, effect: TakeCut) -> None:
        start, cut = effect.start, effect.cut
        cutting = self._cuttings[start.job] = _Cutting(cut)
        if start.gang[0] == self._machine.node.id and cutting.ref not in self._leads:
            deadline_s = self._world.now_s + self._world.costs.cut_deadline_s
            self._leads[cutting.ref] = _Led(CutState(start.gang), deadline_s)
        self._round(cutting)

    def _round(self, cutting: _Cutting) -> None:
        """Look at the pages, tell the lead, do what it orders; again until it has decided."""
        job = cutting.cut.job
        if self._cuttings.get(job) is not cutting or self._broken(cutting):
            return
        view = self._look(cutting, self._machine.ranks[job])
        cutting.asked += 1
        number, lead = cutting.asked, self._machine.ranks[job].start.gang[0]
        judge = partial(self._world.machines[lead].cuts.judge, cutting.ref, view)
        obey = partial(self._obey, cutting, number)
        if lead == self._machine.node.id:
            obey(judge())
        elif lead not in self._world.unreachable:
            self._machine.ask(judge, obey)
        self._machine.soon(self._world.costs.ask_s, partial(self._ask_again, cutting, number))

    def _ask_again(self, cutting: _Cutting, number: int) -> None:
        if cutting.asked == number:
            self._round(cutting)

    def judge(self, ref: Ref, view: View) -> Order | None:
        """The lead's side, as agent.leads has it. None while it is away or knows nothing."""
        led = self._leads.get(ref)
        if not self._machine.up or led is None:
            return None
        led.cut = hear(led.cut, view)
        if self._world.now_s > led.deadline_s:
            led.cut = give_up(led.cut, "not all ranks were held and dumped in time")
        order, saved = led.cut.order, led.saved
        if (order.commit, order.verdict) != (saved.commit, saved.verdict):
            led.saved = order
        return order

    def _look(self, cutting: _Cutting, ranks: Ranks) -> View:
        free, order = keeping.runs_on(cutting.cut, ranks.program), cutting.order
        at_rest = ranks.parked or free
        if at_rest and not cutting.begun and order.verdict is Verdict.GATHER:
            cutting.begun = True
            dump_s = self._world.spread(self._world.costs.dump_s)
            self._machine.soon(dump_s, partial(self._dumped, cutting, ranks))
        sure = ranks.step < order.stop or (ranks.holding and ranks.step == order.stop)
        return View(
            node=self._machine.node.id,
            step=ranks.step,
            agreed=order.stop if order.stop and sure else 0,
            held=ranks.step if ranks.holding and ranks.step == order.stop else 0,
            parked=ranks.step if ranks.parked else 0,
            free=free,
            dumped=cutting.dumped,
            reason=cutting.reason,
            unable=cutting.unable,
        )

    def _dumped(self, cutting: _Cutting, ranks: Ranks) -> None:
        if self._cuttings.get(cutting.cut.job) is not cutting:
            return
        if ranks.gone:
            cutting.dumped, cutting.reason = Dumped.FAILED, "the ranks have ended"
            return
        if self._world.chance(self._world.costs.disk_full):
            cutting.dumped, cutting.reason = Dumped.FAILED, "the disk is full"
            return
        machine, cut = self._machine, cutting.cut
        if found := keeping.obstacle(cut, ranks.program, node_dumps=machine.dumps):
            cutting.dumped, (cutting.reason, cutting.unable) = Dumped.FAILED, found
            return
        cutting.image = keeping.image(cut, ranks, machine.node.id, self._world.physics)
        machine.memory.keep(cut, cutting.image)
        cutting.dumped = Dumped.DURABLE

    def _obey(self, cutting: _Cutting, number: int, order: Order | None) -> None:
        job = cutting.cut.job
        if number != cutting.asked or self._cuttings.get(job) is not cutting:
            return
        cutting.asked += 1
        ranks = self._machine.ranks[job]
        if self._broken(cutting):
            return
        if order is not None:
            aimed = (order.stop, order.commit) != (cutting.order.stop, cutting.order.commit)
            if aimed and order.verdict is not Verdict.FINISH:
                ranks.write(order.stop, order.commit)
            cutting.order = order
        if self._at_end(cutting, ranks):
            self._finish(cutting, ranks)
        else:
            self._machine.soon(_ROUND_S, partial(self._round, cutting))

    def _at_end(self, cutting: _Cutting, ranks: Ranks) -> bool:
        order, free = cutting.order, keeping.runs_on(cutting.cut, ranks.program)
        if order.verdict is Verdict.GATHER:
            return False
        if order.verdict is Verdict.FINISH and cutting.begun and cutting.dumped is Dumped.NOT_YET:
            return False
        went_on = order.verdict is Verdict.FINISH and not ranks.parked
        return free or not order.commit or ranks.parked or went_on or ranks.step > order.commit

    def _finish(self, cutting: _Cutting, ranks: Ranks) -> None:
        cut, image, verdict = cutting.cut, cutting.image, cutting.order.verdict
        released = verdict is Verdict.FINISH and not cut.keep_running
        if released and image is None:
            self._machine.vanish(cut.job)
            self._machine.handle(Ended(cut.job, cut.incarnation, reason="released, but not by us"))
        elif released and image is not None:
            self._machine.vanish(cut.job)
            self._machine.handle(Saved(cut.job, cut.incarnation, cut.cut, True, image))
        else:
            ranks.wake()
            self._machine.soon(self._world.spread(_MEET_S), partial(self._met, cutting))

    def _met(self, cutting: _Cutting) -> None:
        """The gang has met again and goes on."""
        cut, image, order = cutting.cut, cutting.image, cutting.order
        if self._cuttings.get(cut.job) is not cutting:
            return
        del self._cuttings[cut.job]
        done: Done = CutFailed(
            cut.job, cut.incarnation, cut.cut, order.reason or "restarted", order.unable
        )
        if order.verdict is Verdict.FINISH and image is not None:
            done = Saved(cut.job, cut.incarnation, cut.cut, False, image)
        self._machine.memory.let_go(cut.job, cut.incarnation)
        self._machine.handle(done)
