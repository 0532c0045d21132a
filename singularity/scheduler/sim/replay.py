"""A trace through the production code: decide, check, perform and settle on a MemoryLedger. Time
goes from event to event: an arrival, an answer, an end. A round is decided only when it could find
something new: somebody came, devices became free, the last one stopped at a limit of its own, or
somebody waits and the last was a while ago.

Machines are simplified: nothing fails, and whatever they are told takes a fixed time. Storms
(world.py) are where things fail.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from singularity.primitives.errors import Unplaceable
from singularity.primitives.messages import Command, Cut, Register, Report, Reslot, Start, Stop
from singularity.primitives.model import TERMINAL, Job, JobId, JobSpec, JobState, ShardImage, Tier
from singularity.primitives.nodes import NodeId
from singularity.primitives.sla import PROMISED, share
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Action, Plan, Verb
from singularity.scheduler.policy import Policy
from singularity.scheduler.standing import check

from .ledger import MemoryLedger
from .outcomes import Hour, Outcome, Run
from .traces import Arrival, Machines, Trace, fitted

HOUR_S: Final = 3600.0
_ROUNDS_IN_VAIN: Final = 5000  # with nothing running and nobody placed


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that machines take, and how often the scheduler looks: not sooner than `gap_s` after
    its last round, and every `tick_s` while somebody waits or holds less than it wants. A resize
    is answered after `resize_s`, and the work stands still for `stall_s`; a replica takes requests
    `ready_s` after its start, and `wake_s` where it rested. Jobs are cut every `every_s`, which
    tells how fast they are; 0: only when they must leave, for nothing fails here."""

    start_s: float = 0.0
    restart_s: float = 60.0
    cut_s: float = 0.0
    resize_s: float = 0.0
    stall_s: float = 0.0
    ready_s: float = 0.0
    wake_s: float = 0.0
    every_s: float = 0.0
    gap_s: float = 0.0
    tick_s: float = 300.0


@dataclass(slots=True)
class _Work:
    """What is physically done of a job: `done_s` seconds at full size by `at_s`, `saved_s` of them
    in its newest checkpoint. `turn` tells an end that is still to come from one that was put off,
    and `resize` is the last that has stalled it.
    """

    outcome: Outcome
    done_s: float = 0.0
    saved_s: float = 0.0
    at_s: float = 0.0
    speed: float = 0.0
    held: int = 0
    turn: int = 0
    resize: int = 0


class Replay:
    """One trace over one fleet. A run is a pure function of what it is given: the same inputs, the
    same digest. Raises Unplaceable where a job could never run."""

    def __init__(
        self,
        trace: Trace,
        fleet: Iterable[Machines] = (),
        policy: Policy | None = None,
        costs: Costs = Costs(),
        name: str = "singularity",
    ) -> None:
        fleet = tuple(fleet) or trace.fleet
        self._trace = fitted(trace, fleet)
        self._policy, self._costs = policy or Policy(), costs
        self._now_s, self._seq = 0.0, 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ledger = self._make_books()
        self._works: dict[JobId, _Work] = {}
        self._living: dict[JobId, None] = {}
        self._ended: list[JobId] = []  # within the hour
        self._busy, self._wanted = 0, 0
        self._demand = _Demand(fleet)
        self._changed, self._unsettled, self._decided_s = False, False, -math.inf
        self._digest = hashlib.sha256()
        self._in_vain = 0
        for number, machines in enumerate(fleet):
            self._join(number, machines)
        devices = sum(m.nodes * m.devices for m in fleet)
        self.run_ = Run(name, devices, [Outcome(job) for job in self._trace.jobs])
        for outcome in self.run_.outcomes:
            self._at(outcome.job.at_s, partial(self._arrive, outcome))
        self._at(HOUR_S, self._hour)

    def run(self) -> Run:
        left = self._unfinished
        while left():
            round_s = self._round_due()
            if self._heap and self._heap[0][0] <= round_s:
                self._now_s, _, what = heapq.heappop(self._heap)
                what()
            else:
                self._now_s = round_s
                self._round()
        for id_ in self._living:  # of a replay that ends before they do
            work = self._works[id_]
            left_s = work.speed * (self._now_s - work.at_s)
            work.outcome.did_s = min(work.outcome.job.work_s, work.done_s + left_s)
        self.run_.digest = self._digest.hexdigest()[:16]
        return self.run_

    def _make_books(self) -> MemoryLedger:
        return MemoryLedger()

    # -- time ------------------------------------------------------------------------------------

    def _at(self, when_s: float, what: Callable[[], None]) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (when_s, self._seq, what))

    def _unfinished(self) -> bool:
        return bool(self._living) or len(self._works) < len(self.run_.outcomes)

    def _round_due(self) -> float:
        if self._changed:
            return max(self._now_s, self._decided_s + self._costs.gap_s)
        return self._decided_s + self._costs.tick_s if self._unsettled else math.inf

    # -- the scheduler ---------------------------------------------------------------------------

    def _round(self) -> None:
        self._decided_s, self._changed = self._now_s, False
        snapshot = self._ledger.snapshot(self._now_s)
        began_s = time.perf_counter()
        plan = decide(snapshot, self._policy)
        self.run_.decided_ms.append(1e3 * (time.perf_counter() - began_s))
        self.run_.rounds += 1
        assert not (faults := check(snapshot, plan)), faults
        running = [job for job in snapshot.jobs if job.state is JobState.RUNNING]
        self._unsettled = bool(plan.pending) or any(job.held < job.devices for job in running)
        if plan.actions or plan.changes:
            self._carry_out(plan)
        self._give_up(plan, idle=not running)

    def _carry_out(self, plan: Plan) -> None:
        rejected = self._ledger.commit(plan, self._now_s)
        for action in plan.actions:
            if action.job not in rejected:
                self._count(action)
                self._follow(action.job)
        self._deliver()
        taken = sum(action.price is not None for action in plan.actions)
        self._changed |= bool(rejected) or taken >= self._policy.preemptions_per_tick_max

    def _give_up(self, plan: Plan, *, idle: bool) -> None:
        """Nobody runs, nobody comes, and nothing is decided for very long: it never will be."""
        self._in_vain = self._in_vain + 1 if idle and not plan.actions else 0
        if self._in_vain > _ROUNDS_IN_VAIN and len(self._works) == len(self.run_.outcomes):
            job, reasons = min(plan.pending.items())
            raise Unplaceable(f"{job} waits for ever: {'; '.join(r.detail for r in reasons)}")

    def _count(self, action: Action) -> None:
        outcome = self._works[action.job].outcome
        outcome.preemptions += action.verb is Verb.SUSPEND
        outcome.resizes += action.verb is Verb.SCALE
        outcome.migrations += action.verb is Verb.MIGRATE
        where = tuple((s.node, s.devices) for s in action.placement)
        self._digest.update(f"{self._now_s:.6f} {action.verb} {action.job} {where}\n".encode())

    # -- jobs ------------------------------------------------------------------------------------

    def _arrive(self, outcome: Outcome) -> None:
        job = outcome.job
        spec = JobSpec(
            job.name,
            ("trace",),
            ranks=job.devices,
            device=job.device,
            devices=job.devices,
            devices_min=job.devices_min,
            devices_max=job.devices,
            project=job.project,
            tier=job.tier,
            checkpoint_every_s=self._costs.every_s,
        )
        found = Job(JobId(job.name), spec, job.devices, submitted_at_s=self._now_s)
        self._ledger.submit(found)
        self._works[found.id] = _Work(outcome, at_s=self._now_s)
        self._living[found.id] = None
        self._wanted += job.devices
        self._demand.change(job, 1)
        self._changed = True
        self._note()

    def _follow(self, id_: JobId) -> None:
        """The ranks do what the job's row now says."""
        job, work = self._ledger.job(id_), self._works[id_]
        runs = job.state is JobState.RUNNING and not job.dumping
        work.done_s += work.speed * (self._now_s - work.at_s)
        work.at_s = self._now_s
        if runs and work.outcome.began_s is None:
            work.outcome.began_s = self._now_s
        speed = work.outcome.job.speed(job.held) if runs else 0.0
        if resized := runs and not job.resizing and job.resize != work.resize:
            work.done_s -= self._costs.stall_s * speed
            work.resize = job.resize
        if speed != work.speed or resized:
            work.speed, work.turn = speed, work.turn + 1
            if speed:
                left_s = max(0.0, work.outcome.job.work_s - work.done_s) / speed
                self._at(self._now_s + left_s, partial(self._finish, id_, work.turn))
        if job.held != work.held:
            self._busy += job.held - work.held
            self._changed |= job.held < work.held
            work.held = job.held
            self._note()
        if job.state in TERMINAL and id_ in self._living:
            self._end(job, work)

    def _finish(self, id_: JobId, turn: int) -> None:
        if self._works[id_].turn == turn:
            for node in sorted(self._ledger.job(id_).nodes):
                self._report(id_, node, "exited", exit_code=0)

    def _end(self, job: Job, work: _Work) -> None:
        work.outcome.ended_s = self._now_s
        del self._living[job.id]
        self._ended.append(job.id)
        self._wanted -= work.outcome.job.devices
        self._demand.change(work.outcome.job, -1)
        self._digest.update(f"{self._now_s:.6f} {job.state} {job.id}\n".encode())
        self._note()

    def _note(self) -> None:
        self.run_.noted(self._now_s, self._busy, self._wanted)

    # -- machines --------------------------------------------------------------------------------

    def _join(self, number: int, machines: Machines) -> None:
        where = {"region": machines.region, "cluster": machines.cluster, "address": ""}
        for row in range(machines.nodes):
            node = NodeId(f"{machines.cluster}-{number}-{row:05}")
            told = {"node": node, "device": machines.device, "devices": machines.devices}
            self._ledger.register(Register.model_validate({**where, **told}), self._now_s)

    def _deliver(self) -> None:
        """Letters arrive at once; what they ask for takes its time."""
        seen: dict[NodeId, tuple[int, int]] = {}
        for letter in self._ledger.unsent():
            seen[letter.node] = letter.epoch, letter.seq
            command = letter.command
            self._at(self._now_s + self._takes_s(command), partial(self._obey, command))
        for node, (epoch, seq) in seen.items():
            self._ledger.hear(node, epoch, seq, self._now_s)

    def _takes_s(self, command: Command) -> float:
        match command:
            case Start():
                return self._costs.restart_s if command.origin else self._costs.start_s
            case Cut():
                return self._costs.cut_s
            case Reslot():
                return self._costs.resize_s
        return 0.0

    def _obey(self, command: Command) -> None:
        job, work = self._ledger.job(command.job), self._works[command.job]
        if command.incarnation != job.incarnation:
            return
        match command:
            case Start() if job.state is JobState.STARTING:
                kept_s = work.saved_s if command.origin else 0.0
                work.outcome.lost_s += (work.done_s - kept_s) * work.outcome.job.devices
                work.done_s, took_s = kept_s, self._takes_s(command)
                seconds = {"restore": took_s} if command.origin else {"launch": took_s}
                self._report(job.id, command.node, "running", step=_step(kept_s), seconds=seconds)
            case Cut():
                self._cut(job, work, command)
            case Reslot():
                facts = {"resize": command.resize, "devices": command.devices}
                self._report(job.id, command.node, "running", **facts)
            case Stop():
                self._report(job.id, command.node, "stopped")

    def _cut(self, job: Job, work: _Work, cut: Cut) -> None:
        work.saved_s = work.done_s
        ranks = next(shard.ranks for shard in job.placement if shard.node == cut.node)
        image = ShardImage(cut.node, ranks, f"{job.id}-{cut.cut}", step=_step(work.saved_s))
        phase = "running" if cut.keep_running else "dumped"
        facts = {"cut": cut.cut, "image": image, "step": image.step}
        self._report(job.id, cut.node, phase, seconds={"dump": self._costs.cut_s}, **facts)

    def _report(self, job: JobId, node: NodeId, phase: str, **facts: object) -> None:
        incarnation = self._ledger.job(job).incarnation
        said = {"job": job, "node": node, "incarnation": incarnation, "phase": phase, **facts}
        self._ledger.record(Report.model_validate(said), self._now_s)
        self._follow(job)
        self._deliver()

    # -- promises --------------------------------------------------------------------------------

    def _hour(self) -> None:
        """What operators would see: the share of each job in the last hour, and whether what its
        tier asked for was there at all."""
        totals = {tier: [0.0, 0.0, 0.0, 0.0] for tier in PROMISED}
        for id_ in (*self._living, *self._ended):
            job = self._ledger.job(id_)
            if job.tier not in totals or (mine := share(job, self._now_s)).fraction is None:
                continue
            short = mine.fraction < PROMISED[job.tier]
            more = (1.0, float(short), mine.asked_s, mine.given_s)
            totals[job.tier] = [t + m for t, m in zip(totals[job.tier], more, strict=True)]
        for tier, (jobs, below, asked_s, given_s) in totals.items():
            fitted_ = self._demand.fitted(tier)
            self.run_.hours.append(Hour(tier, int(jobs), int(below), asked_s, given_s, fitted_))
        self._demand.begin()
        self._ended.clear()
        if self._unfinished():
            self._at(self._now_s + HOUR_S, self._hour)


def _step(work_s: float) -> int:
    """Of a job that did so much, which is less than nothing while it stands still for a resize."""
    return max(0, int(work_s))


class _Demand:
    """What tiers ask for of each type of device, and where that was more than there is."""

    def __init__(self, fleet: Iterable[Machines]) -> None:
        self._there: dict[str, int] = {}
        for machines in fleet:
            more = machines.nodes * machines.devices
            self._there[machines.device] = self._there.get(machines.device, 0) + more
        self._asked = {device: [0] * len(Tier) for device in self._there}
        self._over = [False] * len(Tier)

    def change(self, job: Arrival, sign: int) -> None:
        self.more(job.device, job.tier, sign * job.devices)

    def more(self, device: str, tier: Tier, count: int) -> None:
        self._asked[device][tier] += count
        self._judge(device)

    def fitted(self, tier: Tier) -> bool:
        """All the time since `begin`, with the tiers above it."""
        return not self._over[tier]

    def begin(self) -> None:
        self._over = [False] * len(Tier)
        for device in self._asked:
            self._judge(device)

    def _judge(self, device: str) -> None:
        for tier in Tier:
            asked = sum(self._asked[device][: tier + 1])
            self._over[tier] |= asked > self._there[device]
