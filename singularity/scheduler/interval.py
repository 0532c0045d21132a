"""How often a checkpoint pays: Young's √(2·C·MTBF), and where its two numbers come from. Pure.

C is what a cut costs the job, in seconds in which its ranks wait, measured at its own cuts. MTBF is
the gang's: it fails when one of its nodes does, so rates add. The rate of a node is what the policy
expects of one that was never watched, counted as one failure in `node_mtbf_s`, together with what
was seen of this one: the mean of a Gamma prior of weight one after Poisson failures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from singularity.primitives import engines
from singularity.primitives.model import Job
from singularity.primitives.nodes import Node

from .policy import Policy

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True, slots=True)
class Cadence:
    """`every_s` from the end of one checkpoint to the next; None when only a suspend takes one."""

    every_s: float | None
    origin: str

    @property
    def text(self) -> str:
        return "only when suspended" if self.every_s is None else f"every {spoken(self.every_s)}"


def rate_of(node: Node, now_s: float, policy: Policy) -> float:
    """Failures a second to be expected of a node."""
    watched_s = max(0.0, now_s - node.known_s)
    return (1.0 + node.failures) / (policy.node_mtbf_s + watched_s)


def mtbf_s(nodes: Iterable[Node], now_s: float, policy: Policy) -> float:
    """Seconds until one of `nodes` fails, on average; infinite without nodes."""
    rate = math.fsum(rate_of(node, now_s, policy) for node in nodes)
    return 1.0 / rate if rate > 0.0 else math.inf


def best_s(cost_s: float, mtbf_s: float, policy: Policy) -> float:
    """The interval that loses least to cuts and to work done again, within the policy's bounds."""
    found = math.sqrt(2.0 * cost_s * mtbf_s) if cost_s > 0.0 else 0.0
    return min(max(found, policy.checkpoint_least_s), policy.checkpoint_most_s)


def interval_s(job: Job, nodes: Iterable[Node], now_s: float, policy: Policy) -> float | None:
    """From the end of one checkpoint of `job` on `nodes` to the next; None when only a suspend
    takes one. Its owner's wish wins."""
    if engines.keeps_nothing(job):
        return None
    if (wish_s := job.spec.checkpoint_every_s) is not None:
        return wish_s or None
    return best_s(_cost_s(job, policy), mtbf_s(nodes, now_s, policy), policy)


def last_s(job: Job) -> float:
    """Since when its work is not kept."""
    return max(job.running_at_s or 0.0, job.cut_ended_s) - job.carried_s


def is_due(job: Job, nodes: Iterable[Node], now_s: float, policy: Policy) -> bool:
    """Has the interval passed since the last? `nodes` are looked at only if it may have."""
    waited_s = now_s - last_s(job)
    if job.spec.checkpoint_every_s is None and waited_s < policy.checkpoint_least_s:
        return False
    every_s = interval_s(job, nodes, now_s, policy)
    return every_s is not None and waited_s >= every_s


def cadence(job: Job, nodes: Iterable[Node], now_s: float, policy: Policy) -> Cadence:
    """The interval in force for `job` on `nodes`, and where it comes from."""
    gang = tuple(nodes)
    every_s = interval_s(job, gang, now_s, policy)
    if engines.keeps_nothing(job):
        return Cadence(every_s, "its engine keeps nothing")
    if job.spec.checkpoint_every_s is not None:
        return Cadence(every_s, "its owner said so")
    measured = "assumed" if job.pause_s is None else "measured"
    between = spoken(mtbf_s(gang, now_s, policy))
    where = f"√(2 · {_cost_s(job, policy):.2g} s {measured} · {between} between failures)"
    return Cadence(every_s, f"auto, {where}")


def _cost_s(job: Job, policy: Policy) -> float:
    return policy.checkpoint_cost_s if job.pause_s is None else job.pause_s


def spoken(seconds: float) -> str:
    """A duration as people say it: the largest unit of which there are two or more."""
    for unit_s, name in _UNITS:
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.3g} {name}"
    return f"{seconds:.3g} s"
