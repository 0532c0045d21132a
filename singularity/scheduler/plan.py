"""What the scheduler wants done, why, and the rules every plan obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from singularity.primitives import cuts, replicas, verbs
from singularity.primitives.model import (
    Checkpoint,
    Goal,
    Job,
    JobId,
    JobState,
    Placement,
)
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import claim
from singularity.primitives.records import replace
from singularity.primitives.resizing import is_in_place
from singularity.primitives.service import Loan, charge
from singularity.primitives.serving import ServiceId
from singularity.primitives.verbs import Step

from .orders import Order
from .pending import Reason as Reason
from .services import Change
from .snapshot import Snapshot


class Verb(StrEnum):
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    SUSPEND = "suspend"
    MIGRATE = "migrate"
    SCALE = "scale"
    FAILOVER = "failover"
    STOP = "stop"  # overdue: stop and try again
    GO_BACK = "go-back"  # to an earlier checkpoint
    CANCEL = "cancel"
    EXPIRE = "expire"  # ran longer than its owner allowed
    LET_GO = "let-go"  # of a handover that nobody comes for
    WAKE = "wake"  # a replica shall serve
    REST = "rest"  # it shall not, once its requests are done
    EVICT = "evict"  # it shall make way, once its requests are done


MINUTE_S: Final = 60.0
CUTS = frozenset({Verb.CHECKPOINT, Verb.SUSPEND, Verb.MIGRATE, Verb.SCALE})


@dataclass(frozen=True, slots=True)
class Action:
    """One primitive applied to one job. `seen` is the row version it was decided on; `price` what
    it costs, in device-seconds, where that was weighed, `whom` the job for which that is done and
    `lent_to` the service whose replica gets the devices. `note_after` is as in messages.Cut, and
    `origin` what a job of kind verify restores, for it has no checkpoints of its own. A move for a
    `drain` takes up `pace_s` seconds of what that may carry. A replica that is suspended `warm`
    need not end."""

    verb: Verb
    job: JobId
    seen: int
    reason: str
    placement: Placement = ()
    lost: frozenset[NodeId] = frozenset()
    price: float | None = None
    whom: JobId | None = None
    lent_to: ServiceId | None = None
    note_after: int = 0
    origin: Checkpoint | None = None
    drain: str = ""
    pace_s: float = 0.0
    warm: bool = False


def called(other: Job, to: Job) -> str:
    """What the owner of `to` may be told of `other`: of one of another project no name, for that is
    none of its business, but the id, which only those who see both projects can look up."""
    if other.spec.project == to.spec.project:
        return other.spec.name
    return f"{other.id} of another project"


@dataclass(frozen=True, slots=True)
class Plan:
    """`pending`: for every job that wants to run and is not placed by this plan, why not. `orders`
    change facts, each by itself, before the actions."""

    actions: tuple[Action, ...] = ()
    pending: Mapping[JobId, tuple[Reason, ...]] = field(default_factory=dict)
    orders: tuple[Order, ...] = ()
    changes: tuple[Change, ...] = ()


def recently_evicted(snapshot: Snapshot) -> list[Job]:
    """Jobs that had to leave their devices for others within the last minute, if no operator has
    acknowledged that."""
    since_s = max(snapshot.now_s - MINUTE_S, snapshot.acknowledged_s)
    return [j for j in snapshot.astir if j.taken and (j.taken.evicted_at_s or 0.0) > since_s]


def grows(job: Job, action: Action) -> int:
    """Devices more that count against the job's project while the action is carried out."""
    if job.spec.aside is not None:
        return 0
    return max(0, sum(s.devices for s in action.placement) - claim(job))


def evicts(job: Job, action: Action) -> bool:
    """Does it make the job leave its devices, and not only share them more tightly?"""
    shares = action.verb is Verb.SCALE and is_in_place(job, action.placement)
    leaves = action.verb in CUTS - {Verb.CHECKPOINT} or action.verb is Verb.EVICT
    return leaves and (not shares or job.resize_refused)


def perform(job: Job, action: Action, now_s: float) -> Step:
    """Turn one action into the next Job, which remembers why, and its commands."""
    step = _dispatch(job, action, now_s)
    if job.state is JobState.STOPPING and action.verb is Verb.STOP:
        return step  # said again; why it stops is remembered already
    changes: dict[str, Any] = {"message": action.reason}
    if action.price is not None:
        gone = evicts(job, action)
        whom, why = action.whom or "", action.reason
        changes["taken"] = charge(job.taken, now_s, action.price, why, evicted=gone, whom=whom)
        if action.lent_to is not None:
            given = job.held - sum(s.devices for s in action.placement)
            loan = Loan(action.lent_to, given, now_s, action.price)
            changes["loans"] = (*job.loans, loan)
    return Step(replace(step.job, **changes), step.commands)


def _dispatch(job: Job, action: Action, now_s: float) -> Step:
    match action.verb:
        case Verb.RESUME:
            if action.origin is not None:
                job = replace(job, checkpoints=(action.origin,))
            return verbs.resume(job, action.placement, now_s)
        case Verb.CHECKPOINT:
            return verbs.checkpoint(job, now_s, action.note_after)
        case Verb.SUSPEND | Verb.MIGRATE:
            return verbs.suspend(job, now_s, action.placement, warm=action.warm)
        case Verb.SCALE:
            return verbs.scale(job, action.placement, now_s)
        case Verb.FAILOVER:
            return verbs.failover(job, action.lost, now_s, action.reason)
        case Verb.STOP:
            return verbs.overdue(job, now_s, action.reason)
        case Verb.GO_BACK | Verb.CANCEL:
            plain = verbs.go_back if action.verb is Verb.GO_BACK else verbs.cancel
            return plain(job, now_s)
        case Verb.EXPIRE:
            return verbs.stop(job, now_s, Goal.FAIL, action.reason)
        case Verb.LET_GO:
            return Step(cuts.let_go(job))
        case Verb.WAKE | Verb.REST | Verb.EVICT:
            return Step(_of_replica(job, action.verb, now_s))


def _of_replica(job: Job, verb: Verb, now_s: float) -> Job:
    if verb is Verb.WAKE:
        return replicas.wake(job)
    return replicas.evict(job, now_s) if verb is Verb.EVICT else replicas.rest(job, now_s)
