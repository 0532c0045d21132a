"""Services follow their load: replicas are woken and put to rest; revisions on trial are judged.

The pass changes what is wanted of replicas, and nothing else: those woken queue like any job, and
make room as any does. Whoever shall rest leaves first. Replicas that must be replaced, for their
node is drained or their revision no longer in force, rest when others answer in their place.
There are never more of a service than it may have, those leaving included; a trial where it may
have one gets one more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from singularity.primitives import replicas
from singularity.primitives.model import ACTIVE, TERMINAL, WAITING, Intent, Job, JobState
from singularity.primitives.nodes import NodeId
from singularity.primitives.serving import ServiceId

from .autoscale import size
from .draft import Draft
from .evacuate import CANNOT, draining, governing, must_go
from .placement import find
from .plan import Action, Reason, Verb
from .policy import Policy
from .services import PROMISED, Change, Served, Service, Trial

_PLACED = frozenset({JobState.STARTING, JobState.RUNNING})


@dataclass(frozen=True, slots=True)
class _Pool:
    """The replicas of one service that have not ended, of any revision, in id order.

    spare   more that may be woken
    short   devices that other jobs lack, by the nodes that they are on
    """

    service: Service
    jobs: tuple[Job, ...]
    spare: int
    short: Counter[NodeId]

    def awake(self) -> list[Job]:
        return [j for j in self.jobs if j.intent is Intent.RUN]

    def of(self, revision: int) -> list[Job]:
        return [j for j in self.jobs if _revision(j) == revision]


def scale(draft: Draft, policy: Policy) -> None:
    snapshot = draft.snapshot
    services = snapshot.traffic.services
    jobs: dict[ServiceId, list[Job]] = {service.id: [] for service in services}
    for job in snapshot.astir if services else ():
        serving = job.spec.serving
        if serving is not None and serving.service in jobs and job.state not in TERMINAL:
            jobs[serving.service].append(job)
    short = _short(snapshot.astir) if services else Counter[NodeId]()
    for service in services:
        mine = tuple(jobs[service.id])
        held = sum(j.intent is Intent.RUN or j.state in ACTIVE for j in mine)
        _leave(draft, mine, policy)
        _unready(draft, mine, policy)
        if service.ending:
            _end(draft, service, mine)
            continue
        now = _sized(draft, _judged(draft, service, mine), mine, policy)
        _flip(draft, _Pool(now, mine, now.ceiling - held, short), policy)
        if now is service and any(draft.verb(j) is Verb.WAKE for j in mine):
            draft.change(Change(service.changed(service.message), "", ""))  # see plan.outdated


def _short(jobs: Iterable[Job]) -> Counter[NodeId]:
    found: Counter[NodeId] = Counter()
    for job in jobs:
        if job.state is JobState.RUNNING and job.held < job.devices:
            for node in job.nodes:
                found[node] += job.devices - job.held
    return found


# -- how many -------------------------------------------------------------------------------------


def _sized(draft: Draft, service: Service, jobs: Sequence[Job], policy: Policy) -> Service:
    """As many as its load needs. Of which nothing is known, that stays as it is. Before the first
    of a new one has started nobody can say that it is idle."""
    snapshot = draft.snapshot
    load, before = snapshot.traffic.loads.get(service.id), service.scaling
    if load is None or snapshot.now_s - before.at_s < policy.scale_look_s:
        return service
    if all(job.started_at_s is None for job in jobs):
        before = replace(before, busy_at_s=snapshot.now_s)
    demand = load.demand(service.target.measure)
    scaling, why = size(before, demand, service.bounds, snapshot.now_s, policy)
    more = scaling.replicas - before.replicas
    told = f"{before.replicas} to {scaling.replicas} replicas: {why}" if more else ""
    after = service.changed(told or service.message, scaling=scaling)
    draft.change(Change(after, "scaled" if more else "", told))
    return after


def _judged(draft: Draft, service: Service, jobs: Sequence[Job]) -> Service:
    """What becomes of the revision on trial, if that can be said yet."""
    trial = service.trial
    if trial is None:
        return service
    served = draft.snapshot.traffic.trials.get(service.id, Served())
    tried = [j for j in jobs if _revision(j) == trial.revision]
    if why := _broken(service, trial, served, tried, draft.snapshot.now_s):
        reason = f"revision {trial.revision} is taken back: {why}"
        after = service.changed(reason, trial=None)
        draft.change(Change(after, "reverted", reason))
        return after
    if served.total < trial.requests:
        return service
    reason = f"revision {trial.revision} takes over: {_spoken(service, served)}"
    after = service.changed(reason, trial=None, spec=trial.spec, made=trial.made)
    draft.change(Change(after, "promoted", reason))
    return after


def _broken(
    service: Service, trial: Trial, served: Served, tried: Sequence[Job], now_s: float
) -> str:
    """Why the trial has failed; "" while it may still succeed."""
    for job in tried:
        if job.user_failures or job.infra_failures > 2:
            return f"{job.spec.name} failed: {job.message}"
    share = service.slo.share if service.slo else PROMISED
    bad = served.total - served.good(service.slo)
    if bad > (1.0 - share) * max(trial.requests, served.total) + 1e-6:
        return _spoken(service, served)
    if now_s >= trial.until_s and served.total < trial.requests:
        return f"it served {served.total} of {trial.requests} requests in its time"
    return ""


def _spoken(service: Service, served: Served) -> str:
    what = "were answered"
    if service.slo is not None:
        what = f"had a {service.slo.promise} within {service.slo.most_s:g} s"
    share = service.slo.share if service.slo else PROMISED
    attained = served.attained(service.slo) or 0.0
    return f"{attained:.2%} of {served.total} requests {what}, {share:.2%} are promised"


# -- which ----------------------------------------------------------------------------------------


def _flip(draft: Draft, pool: _Pool, policy: Policy) -> None:
    """Wake and rest replicas until as many of each revision are awake as are wanted."""
    service, trial = pool.service, pool.service.trial
    of_main, of_trial = service.wanted()
    serves = {service.revision: of_main} | ({trial.revision: of_trial} if trial else {})
    spare = pool.spare
    for revision, count in serves.items():
        spare -= _fill(draft, pool, revision, count, spare)
    for job in pool.jobs:
        if _revision(job) in serves:
            continue
        if job.state in WAITING and job.intent is Intent.HOLD:
            _take(draft, Verb.CANCEL, job, f"revision {_revision(job)} is no longer served")
        elif _revision(job) > service.revision:
            _rest(draft, job, f"revision {_revision(job)} was taken back")
    _replace(draft, pool, of_main, spare, policy)


def _fill(draft: Draft, pool: _Pool, revision: int, count: int, spare: int) -> int:
    """Returns how many of those that may be woken were, besides those that had not left yet."""
    mine = pool.of(revision)
    good = [j for j in mine if j.intent is Intent.RUN and not draining(draft, j)]
    if len(good) > count:
        reason = f"{count} of {len(good)} replicas are wanted"
        for job in sorted(good, key=lambda j: _dispensable(j, pool.short))[: len(good) - count]:
            _rest(draft, job, reason)
        return 0
    woken = 0
    reason = f"{count} replicas are wanted"
    for job in sorted(mine, key=_first_to_wake):
        if len(good) + woken >= count or job.intent is not Intent.HOLD or draft.touched(job):
            continue
        leaves = job.state in _PLACED
        if leaves and (draining(draft, job) or replicas.evicted(job)):
            continue
        if not leaves and (job.state not in WAITING or spare < 1):
            continue
        spare -= not leaves
        woken += not leaves
        count -= leaves
        _take(draft, Verb.WAKE, job, reason)
    return woken


def _dispensable(job: Job, short: Counter[NodeId]) -> tuple[object, ...]:
    """Who serves least first: those without devices, then those that do not answer yet, then where
    most devices are lacking on its nodes, then the newest."""
    since_s = job.running_at_s if job.running_at_s is not None else job.since_s
    frees = max((short[n] for n in job.nodes), default=0)
    return (job.state not in WAITING, replicas.ready(job), -frees, -since_s, job.id)


def _first_to_wake(job: Job) -> tuple[object, ...]:
    """Those that have not left yet, then those that fail least, then those that need not load."""
    return (job.state not in _PLACED, job.user_failures, job.warm is None, job.id)


def _replace(draft: Draft, pool: _Pool, count: int, spare: int, policy: Policy) -> None:
    """Let replicas go that must be replaced: as many as others answer for; or one, to make room for
    its substitute, where no more may be woken."""
    service = pool.service
    current = pool.of(service.revision)
    good = [j for j in current if j.intent is Intent.RUN and not draining(draft, j)]
    ready = sum(map(replicas.ready, good))
    old = [j for j in pool.awake() if _revision(j) < service.revision or draining(draft, j)]
    old = [j for j in old if not draft.touched(j)]
    surplus = ready + sum(map(replicas.ready, old)) - count
    leaving = any(j.intent is Intent.HOLD and j.state in ACTIVE for j in pool.jobs)
    quiet = ready == len(good) and spare == pool.spare and not leaving
    for job in sorted(old, key=lambda j: _dispensable(j, pool.short)):
        where = ", ".join(draining(draft, job))
        why = f"draining {where}" if where else f"revision {service.revision} is served now"
        order = governing(draft, draining(draft, job)) if where else None
        if order is not None and order.paused:
            draft.explain(job, (Reason("drain", f"{order.id} is paused"),))
        elif order is not None and (late := must_go(order, job, draft.snapshot.now_s, policy)):
            _rest(draft, job, f"{why}: {late}")
        elif not replicas.ready(job) or surplus > 0:
            surplus -= replicas.ready(job)
            quiet = False
            _rest(draft, job, why)
        elif spare < 1 and quiet and (not where or find(draft, job, job.devices)):
            quiet = False
            _rest(draft, job, f"{why}, and there may be no more than {service.most}")
        elif where:
            waits = "waits until others answer in its place"
            draft.explain(job, (Reason("drain", f"{CANNOT} {where}: it {waits}"),))


# -- leaving --------------------------------------------------------------------------------------


def _leave(draft: Draft, jobs: Sequence[Job], policy: Policy) -> None:
    """Stop those that shall rest, or make way, and have no requests left, or no time."""
    now_s = draft.snapshot.now_s
    for job in jobs:
        evicted = replicas.evicted(job)
        leaves = evicted or job.intent is Intent.HOLD
        if not leaves or job.state not in _PLACED or draft.touched(job):
            continue
        since_s, what = job.leaving_at_s, "makes way" if evicted else "rests"
        if not job.endpoint or since_s is None:
            _stop(draft, job, f"{what} before it took requests", idle=True)
        elif over := _over(job, now_s, policy):
            _stop(draft, job, f"{what}: {over}", idle=False)
        elif _idle(draft, job, since_s, policy):
            _stop(draft, job, f"{what}: it has no requests left", idle=True)


def _stop(draft: Draft, job: Job, reason: str, *, idle: bool) -> None:
    """One without requests may wait there until it shall serve again; not one whose revision is
    served no more, nor on a node that is drained."""
    serving = job.spec.serving
    assert serving is not None
    warm = idle and serving.warm and not draining(draft, job)
    draft.take(Action(Verb.SUSPEND, job.id, job.version, reason, warm=warm))


def _over(job: Job, now_s: float, policy: Policy) -> str:
    """Why it has no time left for its requests; "" while it has."""
    assert job.spec.serving is not None and job.leaving_at_s is not None
    grace_s = job.spec.serving.grace_s
    if now_s - job.leaving_at_s >= grace_s:
        return f"its grace of {grace_s:g} s is over"
    told_s = job.taken.evicted_at_s if job.taken and replicas.evicted(job) else None
    if told_s is not None and now_s - told_s >= policy.evict_grace_s:
        return f"others wait for its devices for {policy.evict_grace_s:g} s"
    return ""


def _idle(draft: Draft, job: Job, since_s: float, policy: Policy) -> bool:
    """Does every router that speaks say, since the job is leaving, that it has none there?"""
    now_s = draft.snapshot.now_s
    routers = [
        r for r in draft.snapshot.traffic.routers if now_s - r.heard_s <= policy.router_lost_after_s
    ]
    return bool(routers) and all(
        r.heard_s > since_s and r.leaving.get(job.id) == 0 for r in routers
    )


def _unready(draft: Draft, jobs: Sequence[Job], policy: Policy) -> None:
    """One that runs and never answers is tried again, elsewhere if need be."""
    now_s = draft.snapshot.now_s
    for job in jobs:
        waits_s = now_s - (job.running_at_s or now_s)
        if (
            job.state is JobState.RUNNING
            and not job.endpoint
            and waits_s > policy.ready_deadline_s
            and not draft.touched(job)
        ):
            assert job.spec.serving is not None
            reason = f"{job.spec.serving.health} did not answer for {waits_s:.0f} s"
            _take(draft, Verb.STOP, job, reason)


def _end(draft: Draft, service: Service, jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.intent is Intent.RUN:
            _rest(draft, job, f"{service.name} was ended by its owner")
        elif job.state in WAITING:
            _take(draft, Verb.CANCEL, job, f"{service.name} was ended by its owner")
    if not jobs:
        reason = "its last replica has ended"
        after = service.changed(reason, ended_at_s=draft.snapshot.now_s)
        draft.change(Change(after, "ended", reason))


def _rest(draft: Draft, job: Job, reason: str) -> None:
    if job.intent is Intent.RUN:
        _take(draft, Verb.REST, job, reason)


def _take(draft: Draft, verb: Verb, job: Job, reason: str) -> None:
    if not draft.touched(job):
        draft.take(Action(verb, job.id, job.version, reason))


def _revision(job: Job) -> int:
    assert job.spec.serving is not None
    return job.spec.serving.revision
