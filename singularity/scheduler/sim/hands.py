"""Simulated machines: the production agent core and barrier, with hands made of durations.

What a real agent keeps on disk (its journal, the records of the cuts it leads) survives both its
restarts and a power cut; ranks survive only the former.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from singularity.agent.barrier import CutState, Dumped, Order, Verdict, View, give_up
from singularity.agent.barrier import react as hear
from singularity.agent.core import (
    Admitted,
    AgentState,
    Boot,
    CutFailed,
    Done,
    Effect,
    Ended,
    Event,
    Forget,
    Kill,
    Launch,
    Refused,
    Resized,
    Saved,
    Started,
    TakeCut,
    TakeSlots,
    react,
)
from singularity.primitives.messages import Cut, Envelope, Heartbeat, Register, Report, Start
from singularity.primitives.model import JobId, Node, ShardImage

from .physics import Image, Ranks

if TYPE_CHECKING:
    from .world import World

_ROUND_S: Final = 2.0  # between two questions to the lead of a cut
_MEET_S: Final = 2.0  # until a gang that was woken has found each other again
_LOOK_S: Final = 1.0  # until an exit is noticed, or a kill is done
_CRASH_S: Final = 0.2  # chance per step that ranks whose peer is gone notice and crash

_Found = TypeVar("_Found")
Ref = tuple[JobId, int, int]  # job, incarnation, cut


@dataclass(slots=True)
class _Cutting:
    """One node's part in one cut. `asked` numbers its questions: only the last is answered."""

    cut: Cut
    order: Order = Order()
    begun: bool = False
    dumped: Dumped = Dumped.NOT_YET
    reason: str = ""
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


class Machine:
    """One node: its power, its agent and its ranks."""

    def __init__(self, world: World, node: Node) -> None:
        self.world, self.node = world, node
        self.state = AgentState(node=node.id)
        self.up = False
        self.frozen = False
        self.ranks: dict[JobId, Ranks] = {}
        self._life = 0  # of the agent process: whatever an earlier one began is void
        self._admitted = False
        self._asked = 0
        self._heard_s = 0.0
        self._cuttings: dict[JobId, _Cutting] = {}
        self._leads: dict[Ref, _Led] = {}

    # -- power -----------------------------------------------------------------------------------

    def boot_up(self) -> None:
        self.up, self._admitted = True, False
        self._life += 1
        for job, ranks in sorted(self.ranks.items()):
            life = self.state.live.get(job)
            if life is None or life.start.incarnation != ranks.key[1] or not life.started:
                self._vanish(job)
        self._handle(Boot(frozenset(r.key for r in self.ranks.values())))
        for ranks in list(self.ranks.values()):
            if ranks.gone:
                self._soon(_LOOK_S, partial(self._exited, ranks))
        self.frozen = True  # until we are heard: the ranks ran unwatched, maybe past the lease
        self._beat()

    def shut_down(self) -> None:
        """The agent dies; ranks run on."""
        self.up = False
        self._life += 1
        self._cuttings.clear()
        for led in self._leads.values():
            led.cut = CutState(led.cut.gang, order=led.saved)

    def power_off(self) -> None:
        self.shut_down()
        for job in sorted(self.ranks):
            self._vanish(job)

    def kill_ranks(self, job: JobId) -> None:
        """Something on the machine kills the ranks; it was no decision of ours."""
        ranks = self.ranks[job]
        if ranks.up and not ranks.gone:
            self.world.note("killed", job, self.node.id)
            ranks.gone = True
            self._soon(_LOOK_S, partial(self._exited, ranks))

    # -- the agent's conversation ----------------------------------------------------------------

    def letter(self, letter: Envelope) -> None:
        if self.up and self._admitted:
            self._handle(letter)

    def _beat(self) -> None:
        """Register when needed, else one heartbeat; again after a while, come what may."""
        self._asked += 1
        number, began_s = self._asked, self.world.now_s
        if self._admitted:
            state = self.state
            beat = Heartbeat(
                node=state.node,
                epoch=state.epoch,
                acknowledged=state.seq,
                reports=tuple(state.last.values()),
            )
            self._ask(partial(self.world.heartbeat, beat), partial(self._pulse, number, began_s))
        else:
            register = Register(
                node=self.node.id,
                region=self.node.region,
                cluster=self.node.cluster,
                device=self.node.device,
                devices=self.node.devices,
                address="",
                epoch=self.state.epoch,
            )
            self._ask(partial(self.world.register, register), partial(self._admit, number, began_s))
        self._soon(self.world.costs.heartbeat_s, self._beat)

    def _admit(self, number: int, began_s: float, epoch: int) -> None:
        if number != self._asked:
            return
        if epoch != self.state.epoch:
            for job in sorted(self.ranks):
                self._vanish(job)
            self._cuttings.clear()
            self._handle(Admitted(epoch))
        self._admitted = True
        self._heard(began_s)

    def _pulse(
        self, number: int, began_s: float, answer: tuple[int, tuple[tuple[JobId, int], ...]] | None
    ) -> None:
        if number != self._asked:
            return
        if answer is None:
            self._admitted = False
            return
        written, forget = answer
        self._heard(began_s)
        self._handle(Forget(forget))
        if written > self.state.seq:
            epoch, seq = self.state.epoch, self.state.seq
            self._ask(partial(self.world.letters, self.node.id, epoch, seq), self._pulled)

    def _pulled(self, letters: list[Envelope]) -> None:
        for letter in letters:
            self.letter(letter)

    def _heard(self, began_s: float) -> None:
        self._heard_s, self.frozen = began_s, False
        costs = self.world.costs
        late_s = float(self.world.rng.uniform(0.0, costs.fence_late_s))
        left_s = began_s + costs.lease_s - self.world.now_s
        self._soon(max(0.0, left_s) + late_s, self._fence)

    def _fence(self) -> None:
        """No answer for the length of the lease: another life of our jobs may start soon."""
        if self.world.now_s - self._heard_s >= self.world.costs.lease_s and not self.frozen:
            self.world.note("frozen", self.node.id)
            self.frozen = True

    def _ask(self, request: Callable[[], _Found], answer: Callable[[_Found], None]) -> None:
        life = self._life
        self.world.ask(
            self.node.id, request, lambda found: answer(found) if life == self._life else None
        )

    def _soon(self, delay_s: float, what: Callable[[], None]) -> None:
        """Later, unless this agent process is dead by then."""
        life = self._life
        self.world.after(delay_s, lambda: what() if life == self._life else None)

    # -- the agent's judgement -------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        self.state, effects, reports = react(self.state, event)
        for effect in effects:
            self._perform(effect)
        for report in reports:
            self.world.note("report", report.job, self.node.id, report.incarnation, report.phase)
            self._tell(report)

    def _tell(self, report: Report) -> None:
        def forget(settled: bool) -> None:
            if settled:
                self._handle(Forget(((report.job, report.incarnation),)))

        self._ask(partial(self.world.record, report), forget)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Launch():
                self._launch(effect.start)
            case TakeCut():
                self._take_cut(effect)
            case TakeSlots():
                took_s = self.world.spread(self.world.costs.reslot_s)
                self._soon(took_s, partial(self._take_slots, effect))
            case Kill():
                ranks = self.ranks.get(effect.job)
                if ranks is not None and ranks.start.incarnation == effect.incarnation:
                    self._vanish(effect.job)
                done = Ended(effect.job, effect.incarnation, killed=True)
                self._soon(_LOOK_S, partial(self._handle, done))

    # -- ranks -----------------------------------------------------------------------------------

    def _launch(self, start: Start) -> None:
        assert start.job not in self.ranks, f"{start.job} is here already"
        ranks = self.ranks[start.job] = self.world.physics.launch(start)
        used = self.world.physics.running(self.ranks)
        assert used <= self.node.devices, f"{self.node.id} runs {used} of {self.node.devices}"
        launched_s = self.world.spread(self.world.costs.launch_s)
        self._soon(launched_s, partial(self._launched, ranks))

    def _launched(self, ranks: Ranks) -> None:
        if ranks.gone:
            return
        start, costs = ranks.start, self.world.costs
        if start.origin is not None and self.world.chance(costs.rot):
            self.world.rotten.add(ranks.key)
            self.world.note("rotten", start.job)
            self._refuse(start, "the image does not verify", corrupt=True)
        elif self.world.chance(costs.refuse):
            self._refuse(start, "no memory just now", corrupt=False)
        else:
            ranks.up = True
            self._handle(Started(start.job, start.incarnation, ranks.step))
            self._next_step(ranks)

    def _take_slots(self, effect: TakeSlots) -> None:
        """The ranks follow; or one of them comes to no boundary, and none does."""
        start, reslot = effect.start, effect.reslot
        ranks = self.ranks.get(start.job)
        if ranks is None or ranks.gone or ranks.key != (start.job, start.incarnation):
            return
        deaf = ranks.program.free or self.world.chance(self.world.costs.refuse)
        if not deaf:
            changes = {"slots": reslot.slots, "devices": reslot.devices}
            ranks.start = ranks.start.model_copy(update=changes)
            used = self.world.physics.running(self.ranks)
            assert used <= self.node.devices, f"{self.node.id} runs {used} of {self.node.devices}"
            self.world.note("resized", start.job, self.node.id, reslot.devices)
        reason = "a rank came to no boundary" if deaf else ""
        self._handle(Resized(start.job, start.incarnation, reslot.resize, reason))

    def _refuse(self, start: Start, reason: str, *, corrupt: bool) -> None:
        self._vanish(start.job)
        self._handle(Refused(start.job, start.incarnation, reason, corrupt=corrupt))

    def _next_step(self, ranks: Ranks) -> None:
        took_s = self.world.spread(ranks.program.step_s)
        self.world.after(took_s, partial(self._step, ranks, took_s))

    def _step(self, ranks: Ranks, took_s: float) -> None:
        """One mini-batch, if nothing holds the ranks: they need no agent for it."""
        if ranks.gone:
            return
        physics = self.world.physics
        if self.frozen or ranks.holding or (ranks.program.free and self._dumping(ranks)):
            self._next_step(ranks)
            return
        if physics.broken(ranks) and self.world.chance(_CRASH_S):
            self._exit(ranks, 1)
            return
        if ranks.step < ranks.program.steps and physics.may_step(ranks):
            ranks.boundary()
            physics.stepped(ranks, took_s)
        if ranks.step == ranks.program.steps and not ranks.holding:
            self._exit(ranks, ranks.program.code)
        else:
            self._next_step(ranks)

    def _dumping(self, ranks: Ranks) -> bool:
        cutting = self._cuttings.get(ranks.start.job)
        return cutting is not None and cutting.begun and cutting.dumped is Dumped.NOT_YET

    def _exit(self, ranks: Ranks, code: int) -> None:
        ranks.gone, ranks.exit_code = True, code
        if self.up:
            self._soon(_LOOK_S, partial(self._exited, ranks))

    def _exited(self, ranks: Ranks) -> None:
        job, incarnation = ranks.key
        if self.ranks.get(job) is ranks:
            self._vanish(job)
            self._handle(Ended(job, incarnation, exit_code=ranks.exit_code))

    def _vanish(self, job: JobId) -> None:
        self.ranks.pop(job).gone = True
        self._cuttings.pop(job, None)

    # -- cuts ------------------------------------------------------------------------------------

    def _take_cut(self, effect: TakeCut) -> None:
        start, cut = effect.start, effect.cut
        cutting = self._cuttings[start.job] = _Cutting(cut)
        if start.gang[0] == self.node.id and cutting.ref not in self._leads:
            deadline_s = self.world.now_s + self.world.costs.cut_deadline_s
            self._leads[cutting.ref] = _Led(CutState(start.gang), deadline_s)
        self._round(cutting)

    def _round(self, cutting: _Cutting) -> None:
        """Look at the pages, tell the lead, do what it orders; again until it has decided."""
        job = cutting.cut.job
        if self._cuttings.get(job) is not cutting or self.ranks[job].gone:
            return
        view = self._look(cutting, self.ranks[job])
        cutting.asked += 1
        number, lead = cutting.asked, self.ranks[job].start.gang[0]
        judge = partial(self.world.machines[lead].judge, cutting.ref, view)
        obey = partial(self._obey, cutting, number)
        if lead == self.node.id:
            obey(judge())
        elif lead not in self.world.unreachable:
            self._ask(judge, obey)
        self._soon(self.world.costs.ask_s, partial(self._ask_again, cutting, number))

    def _ask_again(self, cutting: _Cutting, number: int) -> None:
        if cutting.asked == number:
            self._round(cutting)

    def judge(self, ref: Ref, view: View) -> Order | None:
        """The lead's side, as agent.leads has it. None while it is away or knows nothing."""
        led = self._leads.get(ref)
        if not self.up or led is None:
            return None
        led.cut = hear(led.cut, view)
        if self.world.now_s > led.deadline_s:
            led.cut = give_up(led.cut, "not all ranks were held and dumped in time")
        order, saved = led.cut.order, led.saved
        if (order.commit, order.verdict) != (saved.commit, saved.verdict):
            led.saved = order
        return order

    def _look(self, cutting: _Cutting, ranks: Ranks) -> View:
        free, order = ranks.program.free, cutting.order
        at_rest = ranks.parked or free
        if at_rest and not cutting.begun and order.verdict is Verdict.GATHER:
            cutting.begun = True
            dump_s = self.world.spread(self.world.costs.dump_s)
            self._soon(dump_s, partial(self._dumped, cutting, ranks))
        sure = ranks.step < order.stop or (ranks.holding and ranks.step == order.stop)
        return View(
            node=self.node.id,
            step=ranks.step,
            agreed=order.stop if order.stop and sure else 0,
            held=ranks.step if ranks.holding and ranks.step == order.stop else 0,
            parked=ranks.step if ranks.parked else 0,
            free=free,
            dumped=cutting.dumped,
            reason=cutting.reason,
        )

    def _dumped(self, cutting: _Cutting, ranks: Ranks) -> None:
        if ranks.gone or self._cuttings.get(cutting.cut.job) is not cutting:
            return
        if self.world.chance(self.world.costs.disk_full):
            cutting.dumped, cutting.reason = Dumped.FAILED, "the disk is full"
            return
        job, incarnation, cut = cutting.ref
        digest = f"{job}.{incarnation}.{cut}.{self.node.id}.{ranks.step}"
        self.world.physics.images[digest] = Image(job, ranks.start.ranks, ranks.step)
        cutting.image = ShardImage(self.node.id, ranks.start.ranks, digest, ranks.step)
        cutting.dumped = Dumped.DURABLE

    def _obey(self, cutting: _Cutting, number: int, order: Order | None) -> None:
        job = cutting.cut.job
        if number != cutting.asked or self._cuttings.get(job) is not cutting:
            return
        cutting.asked += 1
        ranks = self.ranks[job]
        if ranks.gone:
            return
        if order is not None:
            aimed = (order.stop, order.commit) != (cutting.order.stop, cutting.order.commit)
            if aimed and order.verdict is not Verdict.FINISH:
                ranks.write(order.stop, order.commit)
            cutting.order = order
        if self._at_end(cutting, ranks):
            self._finish(cutting, ranks)
        else:
            self._soon(_ROUND_S, partial(self._round, cutting))

    def _at_end(self, cutting: _Cutting, ranks: Ranks) -> bool:
        order, free = cutting.order, ranks.program.free
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
            self._vanish(cut.job)
            self._handle(Ended(cut.job, cut.incarnation, reason="released, but not by us"))
        elif released and image is not None:
            self._vanish(cut.job)
            self._handle(Saved(cut.job, cut.incarnation, cut.cut, True, image))
        else:
            ranks.wake()
            self._soon(self.world.spread(_MEET_S), partial(self._met, cutting))

    def _met(self, cutting: _Cutting) -> None:
        """The gang has met again and goes on."""
        cut, image, order = cutting.cut, cutting.image, cutting.order
        if self._cuttings.get(cut.job) is not cutting:
            return
        del self._cuttings[cut.job]
        done: Done = CutFailed(cut.job, cut.incarnation, cut.cut, order.reason or "restarted")
        if order.verdict is Verdict.FINISH and image is not None:
            done = Saved(cut.job, cut.incarnation, cut.cut, False, image)
        self._handle(done)
