"""The smallest single changes that would let a waiting job start, each tried by decide()."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from singularity.primitives.model import WAITING, Intent, Job, JobId, Tier
from singularity.primitives.projects import claim

from .decide import decide
from .draft import Draft
from .eta import Eta
from .interval import spoken
from .placement import allowed, find, sizes
from .plan import Plan, Verb
from .policy import Policy
from .price import spoken as spoken_price
from .snapshot import Snapshot

_LASTING = frozenset({"dependency", "backoff"})  # nothing here changes those


@dataclass(frozen=True, slots=True)
class Change:
    """`kind` is devices, share, place, tier, quota or wait; the job would start in `in_s`."""

    kind: str
    text: str
    in_s: float


def advise(
    snapshot: Snapshot, plan: Plan, job: Job, policy: Policy, eta: Eta | None = None
) -> tuple[Change, ...]:
    """`plan` is what was decided about the snapshot; the least change comes first."""
    if job.intent is Intent.HOLD and job.state in WAITING:
        return (Change("resume", f"singularity resume {job.spec.name}", 0.0),)
    reasons = plan.pending.get(job.id, ())
    if job.state not in WAITING or not reasons or any(r.kind in _LASTING for r in reasons):
        return ()
    trial = _Trial(snapshot, plan, job, policy)
    found = (
        _fewer(trial),
        _smaller(trial),
        _anywhere(trial),
        *_places(trial),
        _quota(trial),
        _tier(trial),
    )
    return (*(change for change in found if change is not None), *_waits(trial, eta))


class _Trial:
    """One job, and what would be decided if it were otherwise."""

    def __init__(self, snapshot: Snapshot, plan: Plan, job: Job, policy: Policy) -> None:
        self.snapshot, self.job, self.policy = snapshot, job, policy
        self.draft = Draft(snapshot, policy)
        self.least = min(sizes(job), default=job.devices)
        self._others = {a.job for a in plan.actions if a.price is not None}

    def with_job(self, kind: str, text: str, job: Job) -> Change | None:
        jobs = tuple(job if j.id == job.id else j for j in self.snapshot.jobs)
        return self._with(kind, text, replace(self.snapshot, jobs=jobs, by_id=_by_id(jobs)))

    def _with(self, kind: str, text: str, snapshot: Snapshot) -> Change | None:
        """The change, if the job would be placed, or others would give way to it."""
        plan = decide(snapshot, self.policy)
        for action in plan.actions:
            if action.job == self.job.id:
                starts = action.verb is Verb.RESUME
                return Change(kind, f"{text}: fits now", 0.0) if starts else None
        taken = [a for a in plan.actions if a.price is not None and a.job not in self._others]
        said = [r.detail for r in plan.pending.get(self.job.id, ()) if r.kind == "reclaim"]
        if not taken or not any(d.startswith("devices are being") for d in said):
            return None
        victims = [snapshot.by_id[a.job] for a in taken]
        assumed_s = self.policy.move_cost_s / 2
        in_s = max(v.pause_s or assumed_s for v in victims)
        tiers = ", ".join(sorted({v.tier.name.lower() for v in victims}))
        jobs = "1 job" if len(victims) == 1 else f"{len(victims)} jobs"
        price = spoken_price(sum(a.price or 0.0 for a in taken))
        costs = f"~{spoken(in_s)} (takes from {jobs}, {tiers}, {price} device-seconds)"
        return Change(kind, f"{text}: {costs}", in_s)

    def with_quota(self, text: str, project: str, more: int) -> Change | None:
        projects = []
        for known in self.snapshot.projects:
            raised, said = known, known.of(self.job.spec.device)
            if known.id == project and said is not None and said.borrow is not None:
                others = (a for a in known.allotments if a != said)
                more_of_it = replace(said, borrow=said.borrow + more)
                raised = replace(known, allotments=(*others, more_of_it))
            projects.append(raised)
        return self._with("quota", text, replace(self.snapshot, projects=tuple(projects)))


def _by_id(jobs: tuple[Job, ...]) -> dict[JobId, Job]:
    return {j.id: j for j in jobs}


def _fewer(trial: _Trial) -> Change | None:
    job = trial.job
    most = min(trial.least - 1, trial.draft.most(job))
    for devices in range(most, 0, -1):
        ranks = job.spec.ranks
        if (devices <= ranks or devices % ranks == 0) and find(trial.draft, job, devices):
            return trial.with_job("devices", f"devices {devices}", replace(job, devices=devices))
    return None


def _smaller(trial: _Trial) -> Change | None:
    """The largest part of a device, in steps of 50 milli, that would fit."""
    job = trial.job
    if (share := job.spec.share) is None:
        return None
    for milli in range((share.compute_milli - 1) // 50 * 50, 0, -50):
        smaller = replace(job.spec, share=replace(share, compute_milli=milli))
        if find(trial.draft, replace(job, spec=smaller), job.devices):
            text = f"share.compute {milli / 10:g}%"
            return trial.with_job("share", text, replace(job, spec=smaller))
    return None


def _anywhere(trial: _Trial) -> Change | None:
    if trial.job.confine is None:
        return None
    text = f"singularity move {trial.job.spec.name} --to anywhere"
    return trial.with_job("place", text, replace(trial.job, confine=None))


def _places(trial: _Trial) -> Iterator[Change | None]:
    """Each region that the job's owner does not allow, and that has enough devices of its kind."""
    job, snapshot = trial.job, trial.snapshot
    mine = allowed(snapshot, job.spec)
    right = allowed(snapshot, replace(job.spec, regions=(), avoid=()))
    for code, name in enumerate(snapshot.region_names):
        inside = snapshot.region == code
        if (mine & inside).any() or snapshot.total[right & inside].sum() < trial.least:
            continue
        regions = (*job.spec.regions, name) if job.spec.regions else ()
        spec = replace(job.spec, regions=regions, avoid=())
        there = replace(job, spec=spec, confine=None)
        yield trial.with_job("place", f"allow region {name}", there)


def _quota(trial: _Trial) -> Change | None:
    """Of one project; where more than one binds, no single change helps."""
    bound = trial.draft.bound(trial.job)
    if bound is None or not bound.project:
        return None
    more = trial.least - claim(trial.job) - bound.room
    if more <= 0:
        return None
    text = f"quota of {bound.project} by {more} {trial.job.spec.device}"
    return trial.with_quota(text, bound.project, more)


def _tier(trial: _Trial) -> Change | None:
    for tier in range(trial.job.tier - 1, Tier.PREMIUM - 1, -1):
        spec = replace(trial.job.spec, tier=Tier(tier))
        name = Tier(tier).name.lower()
        if found := trial.with_job("tier", f"tier {name}", replace(trial.job, spec=spec)):
            return found
    return None


def _waits(trial: _Trial, eta: Eta | None) -> Iterator[Change]:
    draft = trial.draft
    if find(draft, trial.job, trial.least, free=draft.free + draft.coming):
        yield Change("wait", "wait: devices are being freed", trial.policy.move_cost_s / 2)
    elif eta is not None and eta.after is not None and eta.after_s is not None:
        name = trial.snapshot.by_id[eta.after].spec.name
        yield Change("wait", f"wait for {name}: ~{spoken(eta.after_s)}", eta.after_s)
