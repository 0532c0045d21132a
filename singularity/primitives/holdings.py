"""What a job holds of the planet's devices, how its ranks share them, and what it would lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .model import ACTIVE, Job, JobState, NodeId, Placement, Shard


def divide(placement: Placement, ranks: int) -> Placement:
    """Give the `ranks` of a gang to its shards, in order: rank r sits on device r·d // ranks.

    World size is constant; with fewer devices than ranks, neighbours share a device. With
    more, a rank owns d // ranks of them and its devices never straddle two nodes.
    Raises AssertionError when the shards cannot be divided so (placement must not make such).
    """
    devices = sum(s.devices for s in placement)
    assert devices <= ranks or devices % ranks == 0, (devices, ranks)
    first, out = 0, []
    for shard in placement:
        mine = tuple(
            r for r in range(ranks) if first <= r * devices // ranks < first + shard.devices
        )
        assert mine, (placement, ranks)
        out.append(Shard(shard.node, shard.devices, mine))
        first += shard.devices
    return tuple(out)


def stays(job: Job, shard: Shard) -> tuple[int, ...]:
    """Ranks of `shard` that the reserved target leaves on their node."""
    there = {s.node: s.ranks for s in divide(job.target, job.spec.ranks)}
    return tuple(sorted(set(shard.ranks) & set(there.get(shard.node, ()))))


def holdings(job: Job) -> Counter[NodeId]:
    """Devices the job keeps from others, per node: its placement, plus a reserved target.

    A target on a node that the job already sits on reserves only what it holds beyond that:
    the dump frees the rest before the ranks come back.
    """
    counts: Counter[NodeId] = Counter()
    if job.state in ACTIVE:
        for shard in job.placement:
            counts[shard.node] += shard.devices
    for shard in job.target:
        counts[shard.node] = max(counts[shard.node], shard.devices)
    return counts


def hosts(job: Job) -> Iterator[NodeId]:
    """Every node the job sits on or has reserved, in id order."""
    return iter(sorted({s.node for s in (*job.placement, *job.target)}))


def at_risk_s(job: Job, now_s: float) -> float:
    """Seconds of progress that would be lost if every node of the job died at `now_s`."""
    if job.spec.serving is not None:  # requests are answered, or sent elsewhere
        return 0.0
    if job.handover is not None:
        return job.carried_s
    if job.running_at_s is None or job.state not in (JobState.RUNNING, JobState.SUSPENDING):
        return 0.0
    last = job.checkpoint
    own = last is not None and last.incarnation == job.incarnation
    since_s = max(job.running_at_s, last.at_s if last and own else 0.0)
    return job.carried_s + max(0.0, now_s - since_s)
