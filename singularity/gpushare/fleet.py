"""What is known of the cluster: nodes, sick devices and claims, as the API server tells of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from .shares import Claim, GpuNode

ASSUMED_S: Final = 60.0  # that a bind counts though the API server has not told of it


@dataclass(slots=True)
class Fleet:
    """Mutable. Times are of a clock that never goes back.

    `nodes` holds all that there are; None is one that shares no GPUs."""

    nodes: dict[str, GpuNode | None] = field(default_factory=dict)
    _sick: dict[str, frozenset[int]] = field(default_factory=dict)
    _claims: dict[str, Claim] = field(default_factory=dict)
    _by_node: dict[str, dict[str, Claim]] = field(default_factory=dict)
    _assumed: dict[str, tuple[Claim, float]] = field(default_factory=dict)

    def node(self, name: str) -> GpuNode | None:
        """With its sick devices. Raises KeyError where there is none of that name."""
        found = self.nodes[name]
        return found and replace(found, sick=self._sick.get(name, frozenset()))

    def sharing(self) -> list[GpuNode]:
        """All nodes that share GPUs, by name."""
        return [found for name in sorted(self.nodes) if (found := self.node(name))]

    def claims(self, node: str, now_s: float) -> Collection[Claim]:
        known = self._by_node.get(node, {})
        told = {
            uid: claim
            for uid, (claim, until_s) in self._assumed.items()
            if claim.node == node and until_s > now_s and uid not in known
        }
        return (known | told).values() if told else known.values()

    # -- what the API server tells ---------------------------------------------------------------

    def see_node(self, name: str, node: GpuNode | None) -> None:
        self.nodes[name] = node

    def lose_node(self, name: str) -> None:
        self.nodes.pop(name, None)

    def see_sick(self, node: str, devices: frozenset[int]) -> None:
        self._sick[node] = devices

    def lose_sick(self, node: str) -> None:
        self._sick.pop(node, None)

    def see_pod(self, uid: str, claim: Claim | None, *, bound: bool) -> None:
        """What the pod holds now. While it is not bound, what is assumed of it stands."""
        if (before := self._claims.pop(uid, None)) is not None:
            del self._by_node[before.node][uid]
        if claim is not None:
            self._claims[uid] = claim
            self._by_node.setdefault(claim.node, {})[uid] = claim
        if bound:
            self._assumed.pop(uid, None)

    def lose_pod(self, uid: str) -> None:
        self.see_pod(uid, None, bound=True)

    def nodes_are(self, nodes: Mapping[str, GpuNode | None]) -> None:
        """All that there are."""
        self.nodes = dict(nodes)

    def sick_are(self, sick: Mapping[str, frozenset[int]]) -> None:
        self._sick = dict(sick)

    def claims_are(self, claims: Iterable[Claim]) -> None:
        """All that there are; what is assumed stands beside them."""
        self._claims, self._by_node = {}, {}
        for claim in claims:
            self.see_pod(claim.uid, claim, bound=True)

    # -- what is done here -----------------------------------------------------------------------

    def assume(self, claim: Claim, now_s: float) -> None:
        """It was bound just now, and the next to ask must know."""
        gone = [uid for uid, (_, until_s) in self._assumed.items() if until_s <= now_s]
        for uid in gone:
            del self._assumed[uid]
        self._assumed[claim.uid] = claim, now_s + ASSUMED_S
