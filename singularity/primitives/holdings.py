"""What a job holds of the planet's devices, how its ranks share them, and what it would lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from .errors import Conflict
from .messages import Register
from .model import ACTIVE, Job, JobState, Placement, Shard
from .nodes import Node, NodeId
from .records import replace
from .sharing import WHOLE_MILLI, Part, changed


def divide(placement: Placement, ranks: int) -> Placement:
    """Give the `ranks` of a gang to its shards, in order: rank r sits on device r·d // ranks.

    World size is constant; with fewer devices than ranks, neighbours share a device. With
    more, a rank owns d // ranks of them and its devices never straddle two nodes.
    Raises AssertionError when the shards cannot be divided so (placement must not make such).
    """
    devices = sum(s.devices for s in placement)
    assert devices <= ranks or devices % ranks == 0, (devices, ranks)
    if len(placement) == 1:  # most: all of them
        return (replace(placement[0], ranks=tuple(range(ranks))),)
    first, out = 0, []
    for shard in placement:
        mine = tuple(
            r for r in range(ranks) if first <= r * devices // ranks < first + shard.devices
        )
        assert mine, (placement, ranks)
        out.append(replace(shard, ranks=mine))
        first += shard.devices
    return tuple(out)


def stays(job: Job, shard: Shard) -> tuple[int, ...]:
    """Ranks of `shard` that the reserved target leaves on their node, and on the device of which
    they have a share."""
    there = {s.node: _seats(s) for s in divide(job.target, job.spec.ranks)}
    return tuple(sorted(rank for rank, _ in _seats(shard) & there.get(shard.node, set())))


def _seats(shard: Shard) -> set[tuple[int, int]]:
    """Each rank, and the device of which it has a share; -1 for none."""
    indices = shard.indices or (-1,) * len(shard.ranks)
    return set(zip(shard.ranks, indices, strict=True))


def holdings(job: Job) -> Counter[NodeId]:
    """Whole devices the job keeps from others, per node: its placement, plus a reserved target.

    A target on a node that the job already sits on reserves only what it holds beyond that:
    the dump frees the rest before the ranks come back.
    """
    counts: Counter[NodeId] = Counter()
    if job.spec.share is not None:
        return counts
    if job.state in ACTIVE:
        for shard in job.placement:
            counts[shard.node] += shard.devices
    for shard in job.target:
        counts[shard.node] = max(counts[shard.node], shard.devices)
    return counts


def held_on(job: Job, node: NodeId) -> int:
    """Of `holdings`, what is on this node, and much quicker."""
    if job.spec.share is not None:
        return 0
    placed = job.placement if job.state in ACTIVE else ()
    now = sum([shard.devices for shard in placed if shard.node == node])
    return max([now, *[shard.devices for shard in job.target if shard.node == node]])


def spots(job: Job) -> dict[NodeId, frozenset[int]]:
    """The devices of which the job has a share, or has one reserved, by their numbers on each
    node. A target on a device that it is on already is the same share."""
    found: dict[NodeId, frozenset[int]] = {}
    if job.spec.share is not None:
        for shard in (*(job.placement if job.state in ACTIVE else ()), *job.target):
            found[shard.node] = found.get(shard.node, frozenset()) | set(shard.indices)
    return found


def concerned(before: Job, after: Job) -> list[NodeId]:
    """Nodes on whose books the change of a job shows, in id order."""
    same = before.placement is after.placement and before.target is after.target
    if same and (before.state in ACTIVE) is (after.state in ACTIVE):
        return []
    found = holdings if after.spec.share is None else spots
    was: Mapping[NodeId, object] = found(before)
    now: Mapping[NodeId, object] = found(after)
    return sorted(n for n in {*was, *now} if was.get(n) != now.get(n))


def rebooked(node: Node, before: Job, after: Job) -> Node:
    """The node's books when one of its jobs has changed."""
    parts, share = node.parts, after.spec.share
    if share is None:
        more = held_on(after, node.id) - held_on(before, node.id)
        return replace(node, used=node.used + more)
    old, new = (spots(job).get(node.id, frozenset()) for job in (before, after))
    parts = changed(changed(parts, old - new, share, -1), new - old, share, 1)
    return replace(node, used=node.used + len(parts) - len(node.parts), parts=parts)


def claimed(node: Node, job: Job, shard: Shard) -> Node:
    """The node's books if the job held `shard` beside what it holds already."""
    share = job.spec.share
    if share is None:
        more = max(0, shard.devices - held_on(job, node.id))
        return replace(node, used=node.used + more)
    fresh = frozenset(shard.indices) - spots(job).get(node.id, frozenset())
    parts = changed(node.parts, fresh, share, 1)
    return replace(node, used=node.used + len(parts) - len(node.parts), parts=parts)


def overfull(node: Node) -> str:
    """What is promised twice on the node; "" while nothing is."""
    if node.used > node.devices:
        return f"has {node.devices} devices, and {node.used} would be taken"
    for part in node.parts:
        if part.index >= node.devices or part.compute_milli > WHOLE_MILLI:
            return f"has no such share left of its device {part.index}"
        if part.memory_bytes > node.memory_bytes:
            return f"has not so much memory left on its device {part.index}"
    return ""


def presented(node: Node, register: Register, now_s: float) -> Node:
    """The node as it says it is. What is given out of its memory stays given out. Raises Conflict
    where it cannot be the node that is known by its name."""
    known, said = (
        f"{one.device} in cluster {one.cluster} of region {one.region}" for one in (node, register)
    )
    if known != said:
        raise Conflict(
            f"{node.id} has {said} now, and is known with {known}; begin it as it was, or drain it "
            f"and forget it first: singularity nodes remove {node.id}",
            node=node.id,
        )
    if register.devices < node.used:
        raise Conflict(
            f"{node.id} has {register.devices} devices now, and jobs hold {node.used} of it; begin "
            "it with as many as it had, or drain it first",
            node=node.id,
        )
    least = max((p.memory_bytes for p in node.parts), default=0)
    return replace(
        node,
        address=register.address,
        devices=register.devices,
        rack=register.rack,
        memory_bytes=max(register.memory_bytes, least),
        preempts=register.preempts,
        whole=register.whole,
        heard_s=now_s,
    )


class Tally:
    """What jobs hold, counted by node: the other side of the books that nodes keep."""

    def __init__(self) -> None:
        self._whole: Counter[NodeId] = Counter()
        self._parts: dict[NodeId, tuple[Part, ...]] = {}

    def add(self, job: Job, sign: int = 1) -> set[NodeId]:
        """Count the job, or (-1) no longer; the nodes that it concerns."""
        whole, shared, share = holdings(job), spots(job), job.spec.share
        for node, devices in whole.items():
            self._whole[node] += sign * devices
        for node, indices in shared.items():
            assert share is not None
            self._parts[node] = changed(self._parts.get(node, ()), indices, share, sign)
        return whole.keys() | shared.keys()

    def balances(self, node: Node) -> bool:
        parts = self._parts.get(node.id, ())
        used = self._whole[node.id] + len(parts)
        return (node.used, node.parts) == (used, parts) and not overfull(node)


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
