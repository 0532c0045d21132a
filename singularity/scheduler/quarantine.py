"""Which nodes are not to be trusted with work for a while, and which may be again.

A fault is the node's unless its job has faults on other nodes as well, and a job counts once
however often it fails there: neither a broken program nor a broken image empties a cluster. What
is left is counted within a window. Each quarantine in a row is twice as long as the one before.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from singularity.primitives.health import Fault, Quarantine
from singularity.primitives.nodes import Node

from .orders import Isolate, Order, Readmit
from .policy import Policy
from .snapshot import Ints, Snapshot


def judge(snapshot: Snapshot, policy: Policy) -> tuple[Order, ...]:
    """Bounded by cluster: of more nodes at once than `quarantine_share` it is not they that are
    ill, and an operator has to look."""
    ailing = [snapshot.nodes[row] for row in np.flatnonzero(snapshot.ailing).tolist()]
    if not ailing:
        return ()
    returns = [n for n in ailing if _may_return(n, snapshot.now_s)]
    found: list[Order] = [Readmit(n.id, _since_s(n), "its probation is over") for n in returns]
    suspects = suspected(ailing, snapshot.now_s, policy)
    most = allowed(snapshot, policy)
    worst = sorted(suspects, key=lambda n: (not n.health.sick, -len(n.health.faults), n.id))
    held = Counter(n.cluster for n in ailing if n.health.quarantine and n not in returns)
    for node in worst:
        if held[node.cluster] < most[snapshot.cluster[snapshot.row[node.id]]]:
            held[node.cluster] += 1
            found.append(Isolate(node.id, sentence(node, suspects[node], snapshot.now_s, policy)))
    return tuple(found)


def suspected(ailing: list[Node], now_s: float, policy: Policy) -> dict[Node, str]:
    """Nodes that are to be quarantined, with the reason, as far as that is bounded by nothing."""
    recent = {n.id: _recent(n, now_s, policy) for n in ailing}
    seen = Counter(job for faults in recent.values() for job in {f.job for f in faults if f.job})
    found = {}
    for node in ailing:
        if node.health.quarantine is not None or node.epoch == 0:
            continue
        if node.health.sick:
            found[node] = f"unhealthy devices: {'; '.join(node.health.sick)}"
            continue
        own = [f for f in recent[node.id] if not f.job or seen[f.job] == 1]
        sources = sum(not f.job for f in own) + len({f.job for f in own if f.job})
        if sources >= policy.quarantine_faults:
            found[node] = f"within {policy.fault_window_s / 60:.0f} min: {told(own)}"
    return found


def allowed(snapshot: Snapshot, policy: Policy) -> Ints:
    """int64[C]: how many nodes of each cluster may be in quarantine without an operator: a share,
    and one at least where there are others."""
    total = np.bincount(snapshot.cluster, minlength=len(snapshot.cluster_names))
    share = (total * policy.quarantine_share).astype(np.int64)
    return np.maximum(share, (total >= 2).astype(np.int64))


def sentence(node: Node, reason: str, now_s: float, policy: Policy) -> Quarantine:
    """The quarantine that is due: it doubles, unless the node was well for long."""
    forgotten = now_s - node.health.forgiven_s > policy.quarantine_most_s
    times = 0 if forgotten else min(node.health.times, 30)
    length_s = min(policy.quarantine_first_s * 2.0**times, policy.quarantine_most_s)
    return Quarantine(now_s, now_s + length_s, reason, drains=bool(policy.quarantine_drains))


def told(faults: list[Fault]) -> str:
    """Faults, counted by what they are."""
    kinds = Counter(str(f.kind) for f in faults)
    said = {"lost": "lost", "ranks": "ranks lost", "start": "failed starts"}
    said |= {"restore": "failed restores", "dump": "failed dumps"}
    return ", ".join(f"{said[kind]} × {count}" for kind, count in sorted(kinds.items()))


def _recent(node: Node, now_s: float, policy: Policy) -> list[Fault]:
    since_s = max(now_s - policy.fault_window_s, node.health.forgiven_s)
    return [f for f in node.health.faults if f.at_s > since_s]


def _may_return(node: Node, now_s: float) -> bool:
    found = node.health.quarantine
    over = found is not None and found.until_s is not None and found.until_s <= now_s
    return over and not node.health.sick and not node.lost


def _since_s(node: Node) -> float:
    assert node.health.quarantine is not None
    return node.health.quarantine.since_s
