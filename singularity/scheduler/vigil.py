"""Which nodes have been silent for too long, as far as that can be told from here.

Silence is counted only while somebody is heard: when nobody is, it is the listener that is deaf,
and a silence of everybody is evidence of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from singularity.primitives.nodes import NodeId

_STRIDE_MOST_S: Final = 2.0  # a listener that slept itself has not been listening


@dataclass(frozen=True, slots=True)
class Vigil:
    """`quiet_s`: seconds of observed silence per node; `heard_s`: when it was last heard."""

    at_s: float | None = None
    quiet_s: Mapping[NodeId, float] = field(default_factory=dict)
    heard_s: Mapping[NodeId, float] = field(default_factory=dict)


def observe(vigil: Vigil, heard_s: Mapping[NodeId, float], now_s: float) -> Vigil:
    """Look again at when each node was last heard. Time passes only when some node was heard
    since the last look."""
    stride_s = 0.0 if vigil.at_s is None else min(now_s - vigil.at_s, _STRIDE_MOST_S)
    stride_s = max(stride_s, 0.0)  # a clock that was set back takes no silence back
    news = {n for n, at_s in heard_s.items() if vigil.heard_s.get(n) != at_s}
    quiet_s = {
        node: 0.0 if node in news else vigil.quiet_s.get(node, 0.0) + (stride_s if news else 0.0)
        for node in sorted(heard_s)
    }
    return Vigil(now_s, quiet_s, dict(heard_s))


def silent(vigil: Vigil, lost_after_s: float) -> dict[NodeId, float]:
    """Nodes to be declared lost, with the time at which they were last heard."""
    return {n: vigil.heard_s[n] for n, s in sorted(vigil.quiet_s.items()) if s > lost_after_s}
