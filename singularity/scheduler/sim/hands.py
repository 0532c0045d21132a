"""Simulated machines: the production agent core and barrier, with hands made of durations.

What a real agent keeps on disk (its journal, the records of the cuts it leads) survives both its
restarts and a power cut; ranks survive only the former.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from singularity.agent import stall
from singularity.agent.answers import Cooled, Ended, Hung, Refused, Resized, Started
from singularity.agent.core import Admitted, AgentState, Boot, Event, Forget, react
from singularity.agent.effects import Effect, Kill, Launch, LetGo, TakeCut, TakeSlots
from singularity.primitives.messages import Envelope, Heartbeat, Register, Report, Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import Node

from . import asides, keeping
from .cuts import Cuts
from .physics import Ranks

if TYPE_CHECKING:
    from .world import World

_LOOK_S: Final = 1.0  # until an exit is noticed, or a kill is done
_SCARCE_S: Final = 120.0  # until memory is needed for others, where it is
_STALL_LOOK_S: Final = 10.0
_CRASH_S: Final = 0.2  # chance per step that ranks whose peer is gone notice and crash

_Found = TypeVar("_Found")


class Machine:
    """One node: its power, its agent and its ranks."""

    def __init__(self, world: World, node: Node) -> None:
        self.world, self.node = world, node
        self.dumps = not world.chance(world.costs.undumping)
        self.state = AgentState(node=node.id)
        self.up = False
        self.frozen = False
        self.ranks: dict[JobId, Ranks] = {}
        self.memory = keeping.Memory()
        self.warm: dict[JobId, int] = {}  # replicas that wait, and of which life they are
        self._life = 0  # of the agent process: whatever an earlier one began is void
        self._admitted = False
        self._asked = 0
        self._heard_s = 0.0
        self.cuts = Cuts(self)

    # -- power -----------------------------------------------------------------------------------

    def boot_up(self) -> None:
        self.up, self._admitted = True, False
        self._life += 1
        for job, ranks in sorted(self.ranks.items()):
            life = self.state.live.get(job)
            beside = ranks.start.aside is not None  # whoever compared them is gone
            stranger = life is None or life.start.incarnation != ranks.key[1]
            if stranger or beside or (life is not None and not life.started):
                self.vanish(job)
        self.handle(Boot(frozenset(r.key for r in self.ranks.values())))
        for ranks in list(self.ranks.values()):
            if ranks.gone:
                self.soon(_LOOK_S, partial(self._exited, ranks))
            else:
                self._oversee(ranks, stall.Watch())
        self.frozen = True  # until we are heard: the ranks ran unwatched, maybe past the lease
        self._beat()

    def shut_down(self) -> None:
        """The agent dies; ranks run on."""
        self.up = False
        self._life += 1
        self.cuts.restart()
        self.warm.clear()  # no later than with the next agent, which knows nothing of them

    def power_off(self) -> None:
        self.shut_down()
        self.memory.clear()
        for job in sorted(self.ranks):
            self.vanish(job)

    def kill_ranks(self, job: JobId) -> None:
        """Something on the machine kills the ranks; it was no decision of ours."""
        ranks = self.ranks[job]
        if ranks.up and not ranks.gone:
            self.world.note("killed", job, self.node.id)
            ranks.gone = True
            self.soon(_LOOK_S, partial(self._exited, ranks))

    def hang(self, job: JobId) -> None:
        """The program waits for something that never comes; its peers wait for it."""
        ranks = self.ranks[job]
        if ranks.up and not ranks.gone:
            self.world.note("hang", job, self.node.id)
            ranks.hung = True

    # -- the agent's conversation ----------------------------------------------------------------

    def letter(self, letter: Envelope) -> None:
        if self.up and self._admitted:
            self.handle(letter)

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
                reports=tuple(map(self._answering, state.last.values())),
            )
            self.ask(partial(self.world.heartbeat, beat), partial(self._pulse, number, began_s))
        else:
            register = Register(
                node=self.node.id,
                region=self.node.region,
                cluster=self.node.cluster,
                device=self.node.device,
                devices=self.node.devices,
                rack=self.node.rack,
                address="",
                epoch=self.state.epoch,
                memory_bytes=self.node.memory_bytes,
                preempts=self.node.preempts,
                whole=self.node.whole,
            )
            self.ask(partial(self.world.register, register), partial(self._admit, number, began_s))
        self.soon(self.world.costs.heartbeat_s, self._beat)

    def _admit(self, number: int, began_s: float, epoch: int) -> None:
        if number != self._asked:
            return
        if epoch != self.state.epoch:
            for job in sorted(self.ranks):
                self.vanish(job)
            self.cuts.clear()
            self.memory.clear()
            self.warm.clear()
            self.handle(Admitted(epoch))
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
        self.handle(Forget(forget))
        if written > self.state.seq:
            epoch, seq = self.state.epoch, self.state.seq
            self.ask(partial(self.world.letters, self.node.id, epoch, seq), self._pulled)

    def _pulled(self, letters: list[Envelope]) -> None:
        for letter in letters:
            self.letter(letter)

    def _heard(self, began_s: float) -> None:
        self._heard_s, self.frozen = began_s, False
        costs = self.world.costs
        late_s = float(self.world.rng.uniform(0.0, costs.fence_late_s))
        left_s = began_s + costs.lease_s - self.world.now_s
        self.world.after(max(0.0, left_s) + late_s, self._fence)  # though the agent be dead

    def _fence(self) -> None:
        """No answer for the length of the lease: another life of our jobs may start soon."""
        if self.world.now_s - self._heard_s >= self.world.costs.lease_s and not self.frozen:
            self.world.note("frozen", self.node.id)
            self.frozen = True

    def ask(self, request: Callable[[], _Found], answer: Callable[[_Found], None]) -> None:
        life = self._life
        self.world.ask(
            self.node.id, request, lambda found: answer(found) if life == self._life else None
        )

    def soon(self, delay_s: float, what: Callable[[], None]) -> None:
        """Later, unless this agent process is dead by then."""
        life = self._life
        self.world.after(delay_s, lambda: what() if life == self._life else None)

    # -- the agent's judgement -------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        self.state, effects, reports = react(self.state, event)
        for effect in effects:
            self._perform(effect)
        for report in reports:
            self.world.note("report", report.job, self.node.id, report.incarnation, report.phase)
            self._tell(report)

    def _tell(self, report: Report) -> None:
        def forget(settled: bool) -> None:
            if settled:
                self.handle(Forget(((report.job, report.incarnation),)))

        self.ask(partial(self.world.record, self._answering(report)), forget)

    def _answering(self, report: Report) -> Report:
        """A replica answers as soon as it runs, for as long as its ranks are there."""
        ranks = self.ranks.get(report.job)
        if report.phase != "running" or ranks is None or ranks.gone or not ranks.start.serving:
            return report
        return report.model_copy(update={"endpoint": f"{self.node.id}:80"})

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Launch():
                self._launch(effect.start)
            case TakeCut():
                self.cuts.take(effect)
            case TakeSlots():
                took_s = self.world.spread(self.world.costs.reslot_s)
                self.soon(took_s, partial(self._take_slots, effect))
            case LetGo():
                self.memory.let_go(effect.job, effect.incarnation)
                if self.warm.get(effect.job, effect.incarnation + 1) <= effect.incarnation:
                    del self.warm[effect.job]
            case Kill():
                ranks, waits = self.ranks.get(effect.job), False
                if ranks is not None and ranks.start.incarnation == effect.incarnation:
                    waits = effect.warm and ranks.up and self._keep(effect)
                    self.vanish(effect.job)
                done = Ended(effect.job, effect.incarnation, killed=True, warm=waits)
                self.soon(_LOOK_S, partial(self.handle, done))

    def _keep(self, kill: Kill) -> bool:
        """Memory may be scarce at once, or some time later."""
        if self.world.chance(self.world.costs.scarce):
            return False
        self.warm[kill.job] = kill.incarnation
        if self.world.chance(self.world.costs.scarce):
            self.soon(self.world.spread(_SCARCE_S), partial(self._cool, kill))
        return True

    def _cool(self, kill: Kill) -> None:
        if self.warm.get(kill.job) == kill.incarnation:
            del self.warm[kill.job]
            self.handle(Cooled(kill.job, kill.incarnation))

    # -- ranks -----------------------------------------------------------------------------------

    def _launch(self, start: Start) -> None:
        assert start.job not in self.ranks, f"{start.job} is here already"
        ranks = self.ranks[start.job] = self.world.physics.launch(start)
        self.world.physics.verify_room(self.node, self.ranks)
        costs, woken = self.world.costs, self.warm.pop(start.job, None) is not None
        launched_s = self.world.spread(costs.wake_s if woken else costs.launch_s)
        if woken:
            self.world.note("woken", start.job, self.node.id)
        self.soon(launched_s, partial(self._launched, ranks))

    def _launched(self, ranks: Ranks) -> None:
        if ranks.gone:
            return
        start, costs = ranks.start, self.world.costs
        if not all(self.world.holds(start.job, image) for image in keeping.needed(start)):
            self.world.note("handover lost", start.job)
            self._refuse(start, "nobody keeps it any more", corrupt=True)
        elif start.origin is not None and self.world.chance(costs.rot):
            self.world.rotten.add(ranks.key)
            self.world.note("rotten", start.job)
            self._refuse(start, "the image does not verify", corrupt=True)
        elif self.world.chance(costs.refuse):
            self._refuse(start, "no memory just now", corrupt=False)
        else:
            ranks.up = True
            why_not = "" if self.dumps else keeping.NO_CRIU
            self.handle(Started(start.job, start.incarnation, ranks.step, reason=why_not))
            self._oversee(ranks, stall.Watch())
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
            self.world.physics.verify_room(self.node, self.ranks)
            self.world.note("resized", start.job, self.node.id, reslot.devices)
        reason = "a rank came to no boundary" if deaf else ""
        self.handle(Resized(start.job, start.incarnation, reslot.resize, reason))

    def _refuse(self, start: Start, reason: str, *, corrupt: bool) -> None:
        self.vanish(start.job)
        self.handle(Refused(start.job, start.incarnation, reason, corrupt=corrupt))

    def _next_step(self, ranks: Ranks) -> None:
        took_s = self.world.spread(ranks.program.step_s)
        self.world.after(took_s, partial(self._step, ranks, took_s))

    def _step(self, ranks: Ranks, took_s: float) -> None:
        """One mini-batch, if nothing holds the ranks: they need no agent for it."""
        if ranks.gone:
            return
        physics = self.world.physics
        if (
            self.frozen
            or ranks.hung
            or ranks.holding
            or (ranks.program.free and self.cuts.dumping(ranks))
        ):
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

    def _oversee(self, ranks: Ranks, watch: stall.Watch) -> None:
        """What the hands of one life do between other things."""
        start, now_s = ranks.start, self.world.now_s
        if ranks.gone or ranks.program.free or start.hang_after_s is None:
            return
        done = ranks.step == ranks.program.steps
        watch = stall.observe(watch, {} if done else {0: ranks.step}, now_s)
        if self.frozen or ranks.holding:
            watch = stall.excuse(watch, now_s)
        limits = stall.Limits(start.hang_after_s, self.world.costs.first_step_s)
        if reason := stall.hung(watch, limits, now_s):
            self.world.note("hung", start.job, self.node.id)
            self.handle(Hung(start.job, start.incarnation, reason, ranks.step))
        else:
            self.soon(_STALL_LOOK_S, partial(self._oversee, ranks, watch))

    def _exit(self, ranks: Ranks, code: int) -> None:
        ranks.gone, ranks.exit_code = True, code
        if self.up:
            self.soon(_LOOK_S, partial(self._exited, ranks))

    def _exited(self, ranks: Ranks) -> None:
        job, incarnation = ranks.key
        if self.ranks.get(job) is not ranks:
            return
        if self.cuts.outlives(ranks):
            self.soon(_LOOK_S, partial(self._exited, ranks))
        else:
            self.vanish(job)
            told = asides.compared(ranks)
            self.handle(Ended(job, incarnation, exit_code=ranks.exit_code, certificate=told))

    def vanish(self, job: JobId) -> None:
        self.ranks.pop(job).gone = True
        self.cuts.drop(job)
