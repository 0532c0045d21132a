"""The agent without hands: events in, effects and reports out. No I/O, no clock.

worker.py performs the effects for real; scheduler/sim performs them in simulated time. Both
drive this same `react`. A node is a log consumer: two integers, `epoch` and `seq`, give order,
deduplication and fencing at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from singularity.primitives.messages import Cut, Envelope, Report, Reslot, Start, Stop
from singularity.primitives.model import JobId, Unable
from singularity.primitives.nodes import NodeId

from .answers import Answers, Cooled, CutFailed, Done, Ended, Hung, Refused, Resized, Saved, Started
from .effects import Effect, Kill, Launch, LetGo, TakeCut, TakeSlots


@dataclass(frozen=True, slots=True)
class Boot:
    """The agent process started; `live` are the jobs all of whose ranks still run or have left
    a record of how they ended."""

    live: frozenset[tuple[JobId, int]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """Admitted (again) by the control plane: nothing of an older epoch survives."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The control plane will never need these reports again."""

    reports: tuple[tuple[JobId, int], ...]


Event = Envelope | Done | Boot | Admitted | Forget


@dataclass(frozen=True, slots=True)
class Life:
    """One incarnation on this node; `start` has the slots in force. `cut` is the one being taken
    and `reslot` the change of slots being made, if any; `resize` numbers the last one that ended.
    `lost`: its ranks died by no decision of anybody's, which explains why their peers crash.
    `hung`: what made us think that they will never go on; that is said until they are stopped.
    `endpoint`: where a replica answers, once it does."""

    start: Start
    started: bool = False
    cut: Cut | None = None
    reslot: Reslot | None = None
    resize: int = 0
    stopping: bool = False
    lost: bool = False
    hung: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class AgentState:
    """Exactly what is journaled. `last`: the latest truth per job, repeated with every heartbeat
    until forgotten, because any single report may be lost."""

    node: NodeId
    epoch: int = 0
    seq: int = 0
    live: Mapping[JobId, Life] = field(default_factory=dict)
    last: Mapping[JobId, Report] = field(default_factory=dict)


Outcome = tuple[AgentState, tuple[Effect, ...], tuple[Report, ...]]


def react(state: AgentState, event: Event) -> Outcome:
    """The next state, what to do, and what to tell. Journal the state before doing either."""
    match event:
        case Envelope():
            return _letter(state, event)
        case Boot():
            return _boot(state, event)
        case Admitted():
            kills = tuple(
                Kill(job, life.start.incarnation) for job, life in sorted(state.live.items())
            )
            return AgentState(node=state.node, epoch=event.epoch), kills, ()
        case Forget():
            return _forget(state, event)
        case _:
            return _done(state, event)


def _letter(state: AgentState, letter: Envelope) -> Outcome:
    fits = letter.node == state.node and letter.epoch == state.epoch
    if not fits or letter.seq != state.seq + 1:
        return state, (), ()  # old, repeated or early: the relay repeats, the log is ordered
    state, command = replace(state, seq=letter.seq), letter.command
    match command:
        case Start():
            return _start(state, command)
        case Cut():
            return _cut(state, command)
        case Reslot():
            return _reslot(state, command)
        case Stop():
            return _stop(state, command)


def _start(state: AgentState, start: Start) -> Outcome:
    assert start.job not in state.live, "the ledger waits for 'stopped' before it restarts"
    effects: tuple[Effect, ...] = (Launch(start),)
    last = state.last.get(start.job)
    if last is not None and not last.warm and not _begins_here(start):
        effects = (LetGo(start.job, start.incarnation - 1), *effects)
    return _with(state, start.job, Life(start)), effects, ()


def _begins_here(start: Start) -> bool:
    """From what an earlier life has left in the memory of this very node?"""
    shards = start.origin.shards if start.origin else ()
    return any(image.held and image.node == start.node for image in shards)


def _cut(state: AgentState, cut: Cut) -> Outcome:
    life = state.live.get(cut.job)
    if life is None or life.start.incarnation != cut.incarnation or life.stopping:
        return state, (), ()  # already ended; the last report says how
    return _with(state, cut.job, replace(life, cut=cut)), (TakeCut(life.start, cut),), ()


def _reslot(state: AgentState, reslot: Reslot) -> Outcome:
    life = state.live.get(reslot.job)
    if life is None or life.start.incarnation != reslot.incarnation or life.stopping:
        return state, (), ()
    state = _with(state, reslot.job, replace(life, reslot=reslot))
    return state, (TakeSlots(life.start, reslot),), ()


def _stop(state: AgentState, stop: Stop) -> Outcome:
    life = state.live.get(stop.job)
    if life is not None and life.start.incarnation == stop.incarnation:
        state = _with(state, stop.job, replace(life, stopping=True, cut=None, reslot=None))
        kill = Kill(stop.job, stop.incarnation, stop.stacks, stop.grace_s, stop.warm)
        return state, (kill,), ()
    last = state.last.get(stop.job)
    if last is not None and last.incarnation >= stop.incarnation:
        return state, (), (last,)  # ended before: how it ended is a better answer than 'stopped'
    report = Report(job=stop.job, node=state.node, incarnation=stop.incarnation, phase="stopped")
    return _tell(state, report)


def _done(state: AgentState, done: Done) -> Outcome:
    if isinstance(done, Cooled):
        return _cooled(state, done)
    life = state.live.get(done.job)
    if life is None or life.start.incarnation != done.incarnation:
        return state, (), ()
    match done:
        case Started():
            state = _with(state, done.job, replace(life, started=True))
            report = _report(state, done, "running")
            found: dict[str, object] = {"step": done.step, "seconds": dict(done.seconds)}
            found |= {"reason": done.reason, "unable": Unable.NODE if done.reason else None}
            report = report.model_copy(update=found)
            if _begins_here(life.start):  # its gang has met, so every node has what it needs
                state, _, told = _tell(state, report)
                return state, (LetGo(done.job, done.incarnation - 1),), told
        case Answers():
            state = _with(state, done.job, replace(life, endpoint=done.endpoint))
            report = _with_last_cut(state, _report(state, done, "running"))
        case Saved():
            report = _report(state, done, "dumped" if done.released else "running")
            found = {"cut": done.cut, "image": done.image, "step": done.image.step}
            report = report.model_copy(update={**found, "seconds": dict(done.seconds)})
            state = _without(state, done.job) if done.released else _uncut(state, done)
        case CutFailed():
            state = _uncut(state, done)
            report = _report(state, done, "running")
            found = {"cut": done.cut, "reason": done.reason, "unable": done.unable}
            report = report.model_copy(update=found)
        case Resized():
            life = _resized(life, done)
            state = _with(state, done.job, life)
            report = _with_last_cut(state, _report(state, done, "running"))
            report = report.model_copy(
                update={"reason": done.reason, "seconds": dict(done.seconds)}
            )
        case Hung():
            state = _with(state, done.job, replace(life, hung=done.reason))
            report = _with_last_cut(state, _report(state, done, "running"))
            report = report.model_copy(update={"step": max(report.step, done.step)})
        case Refused():
            state = _without(state, done.job)
            report = _report(state, done, "refused")
            found = {"reason": done.reason, "corrupt": done.corrupt, "unfit": done.unfit}
            report = report.model_copy(update=found)
        case Ended():
            return _ended(state, done, life)
    return _tell(state, report)


def _resized(life: Life, done: Resized) -> Life:
    reslot = life.reslot
    if reslot is not None and not done.reason:
        slots = {"slots": reslot.slots, "devices": reslot.devices}
        life = replace(life, start=life.start.model_copy(update=slots))
    return replace(life, reslot=None, resize=done.resize)


def _ended(state: AgentState, done: Ended, life: Life) -> Outcome:
    if done.exit_code is not None:
        report = _report(state, done, "exited")
        report = report.model_copy(update={"exit_code": done.exit_code, "step": done.step})
    else:
        stopped = done.killed and not life.lost
        report = _report(state, done, "stopped" if stopped else "lost")
    report = _with_last_cut(state, report)
    found = {"reason": done.reason, "certificate": done.certificate, "warm": done.warm}
    return _tell(_without(state, done.job), report.model_copy(update=found))


def _cooled(state: AgentState, done: Cooled) -> Outcome:
    last = state.last.get(done.job)
    if last is None or last.incarnation != done.incarnation or not last.warm:
        return state, (), ()  # its next life began here, or it was to go
    return _tell(state, last.model_copy(update={"warm": False}))


def _boot(state: AgentState, boot: Boot) -> Outcome:
    """Reconcile the journal with reality: end what is half-started or half-dead, take up the
    rest. What is ended here answers 'lost', for no user's program is to blame. Nothing waits warm
    any more: that ended with the agent."""
    effects: list[Effect] = []
    cold = {j: r.model_copy(update={"warm": False}) for j, r in state.last.items() if r.warm}
    state = replace(state, last={**state.last, **cold})
    for job, life in sorted(state.live.items()):
        alive = (job, life.start.incarnation) in boot.live
        if life.stopping or not life.started or not alive:
            lost = life.lost or not life.stopping
            dead = replace(life, stopping=True, lost=lost, cut=None, reslot=None)
            state = _with(state, job, dead)
            effects.append(Kill(job, life.start.incarnation))
        elif life.cut is not None:
            effects.append(TakeCut(life.start, life.cut))
        elif life.reslot is not None:
            effects.append(TakeSlots(life.start, life.reslot))
    return state, tuple(effects), ()


def _forget(state: AgentState, forget: Forget) -> Outcome:
    gone = {
        job: report
        for job, report in state.last.items()
        if job not in state.live and (job, report.incarnation) in set(forget.reports)
    }
    kept = {job: report for job, report in state.last.items() if job not in gone}
    let_go = tuple(LetGo(job, report.incarnation) for job, report in sorted(gone.items()))
    return replace(state, last=kept), let_go, ()


def _report(state: AgentState, done: Done, phase: str) -> Report:
    life = state.live.get(done.job)
    found = {"job": done.job, "node": state.node, "incarnation": done.incarnation, "phase": phase}
    if life is not None:
        found |= {"resize": life.resize, "devices": life.start.devices}
        if phase == "running" and life.hung:
            found |= {"phase": "hung", "reason": life.hung}
        elif phase == "running":
            found |= {"endpoint": life.endpoint}
    return Report.model_validate(found)


def _with_last_cut(state: AgentState, report: Report) -> Report:
    """Carry over a cut that is durable, in case its own report never arrived."""
    last = state.last.get(report.job)
    if last is None or last.incarnation != report.incarnation or last.image is None:
        return report
    found = {"cut": last.cut, "image": last.image, "step": max(last.step, report.step)}
    return report.model_copy(update=found)


def _with(state: AgentState, job: JobId, life: Life) -> AgentState:
    return replace(state, live={**state.live, job: life})


def _without(state: AgentState, job: JobId) -> AgentState:
    return replace(state, live={j: life for j, life in state.live.items() if j != job})


def _uncut(state: AgentState, done: Saved | CutFailed) -> AgentState:
    """The next cut may have been asked for while this one was being given up."""
    life = state.live[done.job]
    over = life.cut is None or life.cut.cut <= done.cut
    return _with(state, done.job, replace(life, cut=None)) if over else state


def _tell(state: AgentState, report: Report) -> Outcome:
    return replace(state, last={**state.last, report.job: report}), (), (report,)
