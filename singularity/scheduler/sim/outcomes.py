"""What became of the jobs of a trace, and figures of it that can be compared between policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from singularity.primitives.model import Tier
from singularity.primitives.sla import PROMISED

from .traces import Arrival

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Outcome:
    """One job. `lost_s` device-seconds of work done that had to be done again; `did_s`, of one that
    did not end, seconds at full size by the end of the replay."""

    job: Arrival
    began_s: float | None = None
    ended_s: float | None = None
    preemptions: int = 0
    resizes: int = 0
    migrations: int = 0
    lost_s: float = 0.0
    did_s: float = 0.0

    @property
    def done_s(self) -> float:
        """Of its work, in seconds at full size."""
        return self.did_s if self.ended_s is None else self.job.work_s


@dataclass(slots=True)
class Pooled:
    """A service: `late` of its `requests` waited for longer than promised. `asked_s` and `held_s`
    are device-seconds that its autoscaler wanted and that its replicas held, and `changes` is how
    often the first changed. `begun` and `woken`: how often a replica began anew, and was woken
    where it rested."""

    name: str
    requests: float = 0.0
    late: float = 0.0
    asked_s: float = 0.0
    held_s: float = 0.0
    changes: int = 0
    begun: int = 0
    woken: int = 0


@dataclass(frozen=True, slots=True)
class Hour:
    """What a tier had been given at the end of an hour: `short` of its `jobs` below the promise.
    `fitted`: what it and the tiers above it asked for was there all the time."""

    tier: Tier
    jobs: int
    short: int
    asked_s: float
    given_s: float
    fitted: bool


@dataclass(slots=True)
class Run:
    """One policy over one trace. `busy` and `wanted`: devices that are held and asked for, from
    each of `times_s` on. `hours` only where the policy keeps accounts."""

    policy: str
    devices: int
    outcomes: list[Outcome]
    times_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    wanted: list[float] = field(default_factory=list)
    hours: list[Hour] = field(default_factory=list)
    rounds: int = 0
    decided_ms: list[float] = field(default_factory=list)
    digest: str = ""
    pools: list[Pooled] = field(default_factory=list)

    def noted(self, now_s: float, busy: float, wanted: float) -> None:
        """From now on so many devices are held and asked for."""
        if self.times_s and self.times_s[-1] == now_s:
            self.busy[-1], self.wanted[-1] = busy, wanted
        else:
            self.times_s.append(now_s)
            self.busy.append(busy)
            self.wanted.append(wanted)


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Times in seconds unless the name says else; jobs that did not end count until the end.

    utilisation   device-time held, of all until the last job ended
    queue_s       from submit to the first start, on average
    attained      by tier: share of jobs given what the tier promises over their life (basic: 0.5)
    kept          by tier: share of job-hours at the promise, of the hours in which the demand of
                  the tier and of those above it fitted; "-" where no accounts were kept
    worked        device-hours of work that jobs have done, at their full size
    in_time       by service: share of its requests that waited no longer than promised
    scalings      by service: how often its autoscaler wanted another number of replicas
    woken         by service: the share of its replicas' starts where they had rested
    fairness      T / (T alone x how contended the fleet was meanwhile): mean and p99; below 1 is
                  better than an equal part of the fleet
    """

    policy: str
    jobs: int
    unfinished: int
    utilisation: float
    makespan_h: float
    jct_h: float
    jct_p50_h: float
    jct_p99_h: float
    queue_h: float
    attained: dict[str, float]
    kept: dict[str, float | None]
    fairness: float
    fairness_p99: float
    preemptions: float
    resizes: float
    migrations: float
    lost_device_h: float
    worked_device_h: float
    in_time: dict[str, float]
    service_device_h: dict[str, float]
    scalings: dict[str, int]
    woken: dict[str, float]
    rounds: int
    decide_p50_ms: float
    decide_p99_ms: float
    digest: str


def scorecard(run: Run) -> Scorecard:
    end_s = max((o.ended_s or 0.0 for o in run.outcomes), default=0.0)
    end_s = max(end_s, run.times_s[-1] if run.times_s else 0.0)
    none = np.zeros(1)  # of a trace with nothing but services
    jct = lasted(run, end_s) if run.outcomes else none
    began = [end_s if o.began_s is None else o.began_s for o in run.outcomes]
    queue_s = np.array(began) - np.array([o.job.at_s for o in run.outcomes])
    rho = _fairness(run, jct) if run.outcomes else none
    jobs, ms = len(run.outcomes), run.decided_ms or [0.0]
    return Scorecard(
        policy=run.policy,
        jobs=jobs,
        unfinished=sum(o.ended_s is None for o in run.outcomes),
        utilisation=_held(run, end_s) / max(run.devices * end_s, 1.0),
        makespan_h=end_s / 3600.0,
        jct_h=float(jct.mean()) / 3600.0,
        jct_p50_h=float(np.median(jct)) / 3600.0,
        jct_p99_h=float(np.percentile(jct, 99)) / 3600.0,
        queue_h=float(queue_s.mean()) / 3600.0 if jobs else 0.0,
        attained={tier.name.lower(): _attained(run, tier, jct) for tier in Tier},
        kept={tier.name.lower(): _kept(run.hours, tier) for tier in PROMISED},
        fairness=float(rho.mean()),
        fairness_p99=float(np.percentile(rho, 99)),
        preemptions=sum(o.preemptions for o in run.outcomes) / max(1, jobs),
        resizes=sum(o.resizes for o in run.outcomes) / max(1, jobs),
        migrations=sum(o.migrations for o in run.outcomes) / max(1, jobs),
        lost_device_h=sum(o.lost_s for o in run.outcomes) / 3600.0,
        worked_device_h=sum(o.done_s * o.job.devices for o in run.outcomes) / 3600.0,
        in_time={p.name: 1.0 - p.late / max(1.0, p.requests) for p in run.pools},
        service_device_h={p.name: p.held_s / 3600.0 for p in run.pools},
        scalings={p.name: p.changes for p in run.pools},
        woken={p.name: p.woken / max(1, p.woken + p.begun) for p in run.pools},
        rounds=run.rounds,
        decide_p50_ms=float(np.median(ms)),
        decide_p99_ms=float(np.percentile(ms, 99)),
        digest=run.digest,
    )


def lasted(run: Run, end_s: float) -> Floats:
    """Seconds from submit to end, a job each."""
    ended = [end_s if o.ended_s is None else o.ended_s for o in run.outcomes]
    found: Floats = np.maximum(np.array(ended) - np.array([o.job.at_s for o in run.outcomes]), 1e-9)
    return found


def fractions(run: Run, jct_s: Floats) -> Floats:
    """T alone on all its devices / T, a job each; of one that did not end, of what it did."""
    found: Floats = np.array([o.done_s for o in run.outcomes]) / jct_s
    return found


def _attained(run: Run, tier: Tier, jct_s: Floats) -> float:
    mine = np.array([o.job.tier is tier for o in run.outcomes])
    if not mine.any():
        return 1.0
    return float((fractions(run, jct_s)[mine] >= PROMISED.get(tier, 0.5)).mean())


def _kept(hours: Sequence[Hour], tier: Tier) -> float | None:
    owed = [hour for hour in hours if hour.tier is tier and hour.fitted]
    jobs = sum(hour.jobs for hour in owed)
    return 1.0 - sum(hour.short for hour in owed) / jobs if jobs else None


def _held(run: Run, end_s: float) -> float:
    """Device-seconds."""
    ends = np.append(np.array(run.times_s[1:]), end_s)
    return float((np.array(run.busy) * (ends - np.array(run.times_s))).sum()) if run.busy else 0.0


def _fairness(run: Run, jct_s: Floats) -> Floats:
    """How each job did against an equal part of the fleet (Themis, NSDI '20), with how contended
    the fleet was while it was there."""
    times, wanted = np.array(run.times_s), np.array(run.wanted)
    contended = np.maximum(1.0, wanted / run.devices)
    area = np.concatenate([[0.0], np.cumsum(contended[:-1] * np.diff(times))])
    from_s = np.array([o.job.at_s for o in run.outcomes])

    def until(moments_s: Floats) -> Floats:
        at = np.clip(np.searchsorted(times, moments_s, side="right") - 1, 0, len(times) - 1)
        found: Floats = area[at] + contended[at] * (moments_s - times[at])
        return found

    mean = (until(from_s + jct_s) - until(from_s)) / jct_s
    found: Floats = jct_s / (np.array([o.job.work_s for o in run.outcomes]) * np.maximum(1.0, mean))
    return found


def rows(cards: Sequence[Scorecard]) -> list[list[str]]:
    """A table: one line a figure, one column a policy."""
    found = [["", *(card.policy for card in cards)]]
    for each in fields(Scorecard)[1:]:
        values = [getattr(card, each.name) for card in cards]
        if isinstance(values[0], dict):
            for key in values[0]:  # a policy that knows no services has none of these
                found.append([f"{each.name} {key}", *(_spoken(v[key]) for v in values)])
        else:
            found.append([each.name, *(_spoken(value) for value in values)])
    return found


def _spoken(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)
