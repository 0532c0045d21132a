"""The primitives. Three of them are real, the rest are compositions:

    resume             place, from what a move left in memory, or the newest checkpoint that counts
    checkpoint         cut, dump, go on
    suspend            cut, dump, release
    migrate, scale     suspend with a reserved `target`, then resume there, past the store where
                       the engine allows (a handover, see cuts.py); a scale that leaves every rank
                       on its node needs no cut, see resizing.py
    stop, failover     stop the survivors of a broken gang, then resume, fail or cancel; so is a
                       job suspended of which nothing can be kept, see engines.py
    settle             fold one agent report into the job

Each takes a Job and returns the next Job with the commands that make it true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import asides, cuts, engines, replicas, resizing
from .cuts import backoff_s, smoothed
from .holdings import divide
from .lifecycle import Event, advance
from .messages import Command, Origin, Report, Start, Stop
from .model import ACTIVE, TERMINAL, WAITING, Engine, Goal, Job, JobState, Placement, Shard
from .nodes import NodeId
from .records import replace

_RETURNS: Final = ("fetch", "restore", "reconnect")  # parts of a start from a checkpoint


@dataclass(frozen=True, slots=True)
class Step:
    job: Job
    commands: tuple[Command, ...] = ()


# -- what the scheduler may ask for ---------------------------------------------------------------


def resume(job: Job, placement: Placement, now_s: float) -> Step:
    shards = divide(placement, job.spec.ranks)
    assert len({s.node for s in shards}) == len(shards), "one shard per node"
    handover = job.handover if cuts.all_stand(job, shards) else None
    moved = advance(
        job,
        Event.PLACED,
        now_s,
        incarnation=job.incarnation + 1,
        placement=shards,
        target=(),
        awaiting=frozenset(s.node for s in shards),
        exited=frozenset(),
        goal=Goal.RETRY,
        running_at_s=None,
        exit_code=None,  # of an earlier life; it must not be taken for the cause of a later stop
        resize_refused=False,
        endpoint="",
        leaving_at_s=None,
        warm=None,
        handover=handover,
        carried_s=job.carried_s if handover else 0.0,
        restoring_s=0.0,
        **engines.anew(job),
    )
    first, commands = 0, []
    for shard in shards:
        commands.append(_start(moved, shard, first))
        first += shard.devices
    return Step(moved, tuple(commands))


def checkpoint(job: Job, now_s: float, note_after: int = 0) -> Step:
    assert job.state is JobState.RUNNING and not job.dumping and not job.resizing, job
    job = replace(job, version=job.version + 1, cutting=engines.first(job))
    return Step(*cuts.begin(job, now_s, keep_running=True, note_after=note_after))


def suspend(job: Job, now_s: float, target: Placement = (), *, warm: bool = False) -> Step:
    """Free its devices. A replica that may stay `warm` has nothing left to do."""
    assert not job.dumping and not job.resizing, "one thing at a time"
    if engines.next_up(job) is Engine.RESTART:
        step = stop(job, now_s, Goal.RETRY, "stopped, and begins again")
        told = tuple(command.model_copy(update={"warm": warm}) for command in step.commands)
        return Step(step.job, told)
    changes = {"awaiting": job.nodes, "target": target, "cutting": engines.first(job)}
    return Step(
        *cuts.begin(advance(job, Event.QUIESCED, now_s, **changes), now_s, keep_running=False)
    )


def migrate(job: Job, target: Placement, now_s: float) -> Step:
    return suspend(job, now_s, target)


def scale(job: Job, target: Placement, now_s: float) -> Step:
    """Change the number of devices held; the world size stays."""
    if resizing.is_in_place(job, target) and not job.resize_refused:
        return Step(*resizing.begin(job, sum(s.devices for s in target), now_s))
    return suspend(job, now_s, target)


def stop(
    job: Job,
    now_s: float,
    goal: Goal,
    message: str,
    lost: frozenset[NodeId] = frozenset(),
    *,
    stacks: bool = False,
) -> Step:
    """Kill what still runs. Devices of survivors stay the job's until each says 'stopped'.

    A job already stopping is told again: the second letter costs nothing.
    """
    kept = tuple(s for s in job.placement if s.node not in lost)
    goal = _goal(job, goal)
    handover = cuts.still_good(job.handover, goal)
    moved = advance(
        job,
        Event.LOST,
        now_s,
        placement=kept,
        target=(),
        awaiting=frozenset(s.node for s in kept),
        dumping=frozenset(),
        gathered=(),
        resizing=frozenset(),
        goal=goal,
        message=message,
        handover=handover,
        # What this life's other nodes yet say of the handover is not said of a checkpoint.
        corrupt_in=job.corrupt_in if handover == job.handover else job.incarnation,
    )
    if not kept:
        return Step(_stopped(moved, now_s))
    told = {"job": job.id, "incarnation": job.incarnation, "stacks": stacks}
    told["grace_s"] = replicas.patience_s(job)
    return Step(moved, tuple(Stop.model_validate({**told, "node": s.node}) for s in kept))


def failover(job: Job, lost: frozenset[NodeId], now_s: float, message: str) -> Step:
    """The gang is broken: stop the survivors, then resume from the last checkpoint.

    When only reserved nodes were lost, the reservation goes and the job does not notice.
    """
    if job.target and not lost & job.nodes:
        return Step(replace(job, target=(), version=job.version + 1))
    job = _failed_by_infra(_excused(job), now_s)
    return stop(job, now_s, _infra_goal(job), message, lost)


def overdue(job: Job, now_s: float, message: str) -> Step:
    """A passing state took too long: stop it and try again, less often each time, until the
    infrastructure has failed it too often. A stop that is overdue is only said again."""
    if job.state is JobState.STOPPING:
        return stop(job, now_s, job.goal, job.message)
    job = _failed_by_infra(job, now_s)
    return stop(job, now_s, _infra_goal(job), message)


def go_back(job: Job, now_s: float) -> Step:
    """To the checkpoint that its owner chose, if that is kept: what was done since is given up."""
    to, job = cuts.chosen(job), replace(job, back_to=None, version=job.version + 1)
    if to is None:
        return Step(job)
    after = cuts.gone_back(job, to)
    if job.state in WAITING:
        return Step(after)
    return stop(after, now_s, Goal.RETRY, f"goes back to step {to.step}")


def cancel(job: Job, now_s: float) -> Step:
    if job.state in WAITING:
        told = "cancelled by its owner"
        return Step(advance(job, Event.CANCELLED, now_s, message=told, handover=None))
    return stop(job, now_s, Goal.CANCEL, "cancelled by its owner")


def retire(job: Job) -> Step:
    """Give up the checkpoints of a job that has ended; the store may forget them then."""
    assert job.state in TERMINAL, job
    return Step(replace(job, checkpoints=(), version=job.version + 1) if job.checkpoints else job)


# -- what agents report ---------------------------------------------------------------------------


def settle(job: Job, report: Report, now_s: float) -> Step:
    """Fold one agent report into the job. Stale or repeated reports change nothing."""
    stale = report.incarnation != job.incarnation or report.node not in job.nodes
    if stale or job.state not in ACTIVE:
        return Step(replicas.cooled(job, report))
    if report.unable and cuts.answers(job, report):
        return _fall(job, report, now_s)
    job = cuts.distrusting(job, report) if report.corrupt else cuts.gather(job, report, now_s)
    job = engines.judged_unfit(job, report)
    gone = frozenset({report.node})
    match report.phase:
        case "hung":
            return _hung(job, report, now_s)
        case "running" if job.resizing:
            return Step(*resizing.answered(job, report, now_s))
        case "running":
            return Step(replicas.answers(_started(job, report, now_s), report))
        case _ if job.state is JobState.STOPPING:
            return Step(_survivor_gone(job, report, now_s))
        case "dumped" if job.state is JobState.SUSPENDING and report.node not in job.dumping:
            return _dumped(job, report.node, now_s)
        case "exited" if report.exit_code == 0 and job.spec.serving is None:
            return Step(_exited(job, report, now_s))
        case "exited":
            return _crashed(job, report, now_s)
        case "refused" if report.unfit:
            return stop(job, now_s, Goal.RETRY, report.reason, gone)
        case "refused":
            job = _failed_by_infra(job, now_s)
            return stop(job, now_s, _infra_goal(job), report.reason, gone)
    return failover(job, gone, now_s, report.reason or f"ranks on {report.node} are gone")


def settled(job: Job | None, report: Report) -> bool:
    """May the agent forget this report? True when repeating it can never matter again."""
    gone = report.phase not in ("running", "hung")
    if job is not None and (cuts.keeps_for(job, report) or replicas.waits(job, report)):
        return False
    if job is None or report.incarnation < job.incarnation or job.state not in ACTIVE:
        return gone
    return gone and report.node not in job.nodes


def _start(job: Job, shard: Shard, first: int) -> Start:
    """The command for `shard`, whose first device is number `first` of the gang's."""
    spec, last = job.spec, job.origin
    origin = None
    if last is not None:
        shards = engines.images_for(last, shard)
        origin = Origin(incarnation=last.incarnation, cut=last.cut, step=last.step, shards=shards)
    return Start(
        job=job.id,
        node=shard.node,
        incarnation=job.incarnation,
        gang=tuple(s.node for s in job.placement),
        world=spec.ranks,
        ranks=shard.ranks,
        slots=resizing.slots(shard, first, job.held, spec.ranks),
        devices=shard.devices,
        run=spec.run,
        env=spec.env,
        workdir=spec.workdir,
        memory_bytes=spec.memory_bytes,
        hang_after_s=spec.hang_after_s,
        origin=origin,
        project=spec.project,
        cooperation=spec.cooperation,
        aside=spec.aside,
        serving=spec.serving,
        share=spec.share,
        indices=shard.indices,
    )


def _fall(job: Job, report: Report, now_s: float) -> Step:
    """The engine of the cut in flight can never take it: the next that is allowed does, at once.
    To keep nothing is no checkpoint, and only for whoever must go."""
    job, stays = engines.fell(job, report), job.state is not JobState.SUSPENDING
    match engines.following(job):
        case Engine.COOPERATIVE:
            job = replace(job, cutting=job.cutting + 1, version=job.version + 1)
            return Step(*cuts.begin(job, now_s, keep_running=stays))
        case Engine.RESTART if not stays:
            return stop(job, now_s, Goal.RETRY, f"begins again: {report.reason}")
    return Step(cuts.aborted(job, report.reason, now_s))


def _started(job: Job, report: Report, now_s: float) -> Job:
    if job.state is not JobState.STARTING or report.node not in job.awaiting:
        return job
    job = engines.started(job, report)
    if job.checkpoint is not None and job.handover is None:  # what it costs from the store
        took_s = sum(report.seconds.get(part, 0.0) for part in _RETURNS)
        job = replace(job, restoring_s=max(job.restoring_s, took_s))
    if left := job.awaiting - {report.node}:
        return replace(job, awaiting=left, version=job.version + 1)
    return advance(
        job,
        Event.STARTED,
        now_s,
        awaiting=left,
        message="",
        step=report.step,
        restore_s=smoothed(job.restore_s, job.restoring_s),
        running_at_s=now_s,
        started_at_s=now_s if job.started_at_s is None else job.started_at_s,
        handover=None,  # the next failure goes back to what is in the store
    )


def _dumped(job: Job, node: NodeId, now_s: float) -> Step:
    if left := job.awaiting - {node}:
        return Step(replace(job, awaiting=left, version=job.version + 1))
    done = advance(job, Event.DUMPED, now_s, awaiting=left, placement=(), running_at_s=None)
    if done.target:
        return resume(done, done.target, now_s)
    if done.handover and done.handover.standing:  # the target is gone, and some never left
        return resume(done, job.placement, now_s)
    return Step(done)


def _goal(job: Job, wanted: Goal) -> Goal:
    """What a stop is for, when there may be a stop already: only a cancel overrules that."""
    return wanted if job.state is not JobState.STOPPING or wanted is Goal.CANCEL else job.goal


def _excused(job: Job) -> Job:
    """The infrastructure failed a peer, and that is why the user's program crashed: not its fault,
    and not counted as its failure."""
    if job.state is not JobState.STOPPING or job.goal is not Goal.FAIL or job.exit_code is None:
        return job
    failures = max(0, job.user_failures - 1)
    return replace(job, goal=Goal.RETRY, user_failures=failures, exit_code=None)


def _survivor_gone(job: Job, report: Report, now_s: float) -> Job:
    node = report.node
    if report.phase in ("lost", "refused"):
        job = _excused(job)
    placement = tuple(s for s in job.placement if s.node != node)
    left = job.awaiting - {node}
    warm = node if report.warm else job.warm
    job = replace(job, placement=placement, awaiting=left, warm=warm, version=job.version + 1)
    return job if left else _stopped(job, now_s)


def _stopped(job: Job, now_s: float) -> Job:
    if job.goal is Goal.FAIL:
        return advance(job, Event.FAILED, now_s, placement=())
    over = {"running_at_s": None, "leaving_at_s": None, "endpoint": ""}
    done = advance(job, Event.STOPPED, now_s, placement=(), **over)
    return advance(done, Event.CANCELLED, now_s) if job.goal is Goal.CANCEL else done


def _exited(job: Job, report: Report, now_s: float) -> Job:
    if report.node in job.exited:
        return job
    exited, step = job.exited | {report.node}, max(job.step, report.step)
    job = replace(job, exited=exited, step=step, version=job.version + 1)
    if job.exited != job.nodes:
        return job
    return advance(
        job,
        Event.FINISHED,
        now_s,
        placement=(),
        target=(),
        awaiting=frozenset(),
        dumping=frozenset(),
        gathered=(),
        resizing=frozenset(),
        handover=None,
        exit_code=0,
        message="",
        certificate=asides.found(job, report, now_s),
    )


def _crashed(job: Job, report: Report, now_s: float) -> Step:
    """The user's program ended badly: try again only if its owner said so."""
    code, failures = report.exit_code, replicas.user_failures(job, now_s) + 1
    again = failures <= job.spec.retry_user and (
        not job.spec.retry_exit_codes or code in job.spec.retry_exit_codes
    )
    job = replace(
        job,
        user_failures=failures,
        exit_code=code,
        retry_at_s=now_s + backoff_s(failures) if again else job.retry_at_s,
    )
    message = f"exited with code {code} on {report.node}{report.reason and f': {report.reason}'}"
    goal = Goal.RETRY if again else Goal.FAIL
    return stop(job, now_s, goal, message, frozenset({report.node}))


def _hung(job: Job, report: Report, now_s: float) -> Step:
    """No progress, whoever is to blame: all are stopped, and what they waited for is kept. Once is
    enough: the other nodes of the gang will say the same."""
    if job.state is JobState.STOPPING:
        return Step(job)
    job = _failed_by_infra(replace(job, hangs=job.hangs + 1), now_s)
    return stop(job, now_s, _infra_goal(job), report.reason, stacks=True)


def _failed_by_infra(job: Job, now_s: float) -> Job:
    failures = job.infra_failures + 1
    return replace(job, infra_failures=failures, retry_at_s=now_s + backoff_s(failures))


def _infra_goal(job: Job) -> Goal:
    return Goal.FAIL if job.infra_failures > job.spec.retry_infra else Goal.RETRY
