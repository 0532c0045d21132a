"""Who is next, and who may not even try."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from singularity.primitives.model import WAITING, Job, JobId, JobState, Tier
from singularity.primitives.sla import PROMISED, attained_s, share

from .lines import Line, lines_of, queues, stands
from .plan import Reason
from .policy import Policy
from .snapshot import Snapshot

Place = tuple[Tier, bool, bool, int, float, int, float, JobId]


def queue(snapshot: Snapshot, policy: Policy) -> list[Job]:
    """Jobs that want devices: most urgent tier first, in each the replicas of services, then those
    for whom others just gave devices up, then those furthest from what the tier promises, then
    those whose project has used least by its weight, then those that had least so far (`level`),
    then the longest waiting. After an hour without devices none is further than another, and what a
    project used is worth half after a day. Those that verify others do not queue."""
    place = _placing(snapshot, policy)
    return sorted((j for j in snapshot.jobs if queues(j)), key=place)


def _placing(snapshot: Snapshot, policy: Policy) -> Callable[[Job], Place]:
    """The place of a job in the queue."""
    now_s = snapshot.now_s
    used = {p.id: p.share(now_s) for p in snapshot.projects}
    meant = meant_for(snapshot, policy)

    def place(job: Job) -> Place:
        spec = job.spec
        served, had = (0, 0) if stands(job) else (_served(job, now_s), level(job, now_s, policy))
        whose = used.get(spec.project, 0.0)
        first = spec.tier, spec.serving is None, job.id not in meant
        return *first, served, whose, had, job.submitted_at_s, job.id

    return place


def meant_for(snapshot: Snapshot, policy: Policy) -> frozenset[JobId]:
    """The jobs for which others give devices up, or just did. Whoever is before such a job by
    waiting alone could not have asked for those, and would be asked to give them back soon."""
    lately_s = snapshot.now_s - policy.meant_s
    begun_s = lately_s - policy.suspend_deadline_s

    def fresh(job: Job, at_s: float) -> bool:
        leaves = job.state is JobState.SUSPENDING
        left = job.state is JobState.SUSPENDED and job.since_s > lately_s
        return at_s > lately_s or (at_s > begun_s and (leaves or left))

    takings = ((job, job.taken) for job in snapshot.astir if job.taken)
    return frozenset(JobId(taken.whom) for job, taken in takings if fresh(job, taken.at_s))


class Rank:
    """One line in the queue, as far as it was not looked at yet. There is always a first."""

    __slots__ = ("_at", "_line", "_place", "first")

    def __init__(self, line: Line, place: Callable[[Job], Place]) -> None:
        self._line, self._place, self._at = line, place, 0
        self.first = line.jobs[0]

    @property
    def place(self) -> Place:
        """Of its first."""
        return self._place(self.first)

    @property
    def rest(self) -> tuple[Job, ...]:
        """All behind the first."""
        return self._line.jobs[self._at + 1 :]

    @property
    def behind(self) -> tuple[tuple[JobId, ...], int]:
        """The ids of the whole line, and from which place on they are behind the first."""
        return self._line.ids, self._at + 1

    def advance(self) -> bool:
        """Past the first; False when nobody is left."""
        self._at += 1
        if self._at == len(self._line.jobs):
            return False
        self.first = self._line.jobs[self._at]
        return True


def ranks(snapshot: Snapshot, policy: Policy) -> dict[Tier, list[Rank]]:
    """The queue by tier, with those that are alike in lines."""
    place, found = _placing(snapshot, policy), dict[Tier, list[Rank]]()
    for line in lines_of(snapshot.jobs, snapshot.lined):
        found.setdefault(line.jobs[0].tier, []).append(Rank(line, place))
    return found


class Footing(NamedTuple):
    """Of a job among those of its tier: the level that it has by what it `had` so far, and the one
    on which it stands, which is less for who has waited for very long."""

    level: int
    had: int


def footing(job: Job, now_s: float, policy: Policy) -> Footing:
    """Nobody knows how long a job will take, but most are short, and one that took long will take
    longer: who is served by what it had comes near to the shortest first. Levels grow, so that two
    jobs do not take turns for ever."""
    had_s, ends_s, had = attained_s(job, now_s), policy.level_first_s, 0
    while had_s >= ends_s:
        ends_s *= policy.level_grows
        had += 1
    if not had or job.state not in WAITING:
        return Footing(had, had)
    return Footing(max(0, had - int((now_s - job.since_s) // policy.ageing_s)), had)


def level(job: Job, now_s: float, policy: Policy) -> int:
    """Which of the levels of its tier the job is on: 0 for who had least so far."""
    return footing(job, now_s, policy).level


def promised(job: Job) -> int:
    """The fewest devices on which the job is given what its tier promises; 0 of nothing."""
    return math.ceil(PROMISED.get(job.tier, 0.0) * job.devices)


def yields(job: Job, to: Footing, now_s: float, policy: Policy) -> bool:
    """Would the running job let another of its tier go before it that stands so? When that is on a
    lower level, and the job is still given what its tier promises and has had its devices for a
    while now: for a longer one where the other had no less and only waited. Else all who waited for
    long would take turns with each other, and come back again and again."""
    own = level(job, now_s, policy)
    if job.running_at_s is None or own <= to.level:
        return False
    turn_s = policy.quantum_s if to.had < own else max(policy.quantum_s, policy.turn_s)
    if now_s - job.running_at_s < turn_s:
        return False
    least = PROMISED.get(job.tier)
    return least is None or (share(job, now_s).fraction or 0.0) > least


def _served(job: Job, now_s: float) -> int:
    """In twentieths, how much of what it asked for the job was given within the hour; 0 where that
    is promised to nobody."""
    most = PROMISED.get(job.tier)
    if not most or (job.account is None and not job.placement):  # never given anything
        return 0
    return round(20 * min(most, share(job, now_s).fraction or 0.0))


def not_yet(snapshot: Snapshot, job: Job) -> tuple[Reason, ...]:
    """Why the job may not be placed at all now, however much is free."""
    if not job.spec.after and job.retry_at_s <= snapshot.now_s:
        return ()
    reasons = []
    for other in job.spec.after:
        found = snapshot.by_id.get(other)
        state = found.state if found else "unknown"
        if state is not JobState.SUCCEEDED:
            reasons.append(Reason("dependency", f"waits for {other} to succeed; it is {state}"))
    if (left_s := job.retry_at_s - snapshot.now_s) > 0:
        why = job.message or "it failed"
        reasons.append(Reason("backoff", f"tries again in {left_s:.0f} s after: {why}"))
    return tuple(reasons)
