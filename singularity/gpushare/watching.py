"""Keeps what is known of the cluster up to date: all there is, then what changes, and again from
the beginning whenever that ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lightkube.resources.core_v1 import ConfigMap, Node, Pod

from singularity.primitives.errors import InvalidSpec, Rejected, Unavailable

from .cluster import EVERYWHERE, Cluster
from .fleet import Fleet
from .reading import SYSTEM, claim_of, node_of, over, sick_of
from .shares import GpuNode

_AGAIN_S: Final = (0.2, 1.0, 5.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    kind: Any
    namespace: str | None
    are: Callable[[Sequence[Any]], None]
    change: Callable[[str, Any], None]


class Watcher:
    def __init__(self, cluster: Cluster, fleet: Fleet) -> None:
        self._cluster, self._fleet = cluster, fleet
        self._known: set[Any] = set()
        self._kinds = (
            _Kind(Pod, EVERYWHERE, self._pods_are, self._pod),
            _Kind(Node, None, self._nodes_are, self._node),
            _Kind(ConfigMap, SYSTEM, self._maps_are, self._map),
        )

    @property
    def ready(self) -> bool:
        """Is all known that there was?"""
        return len(self._known) == len(self._kinds)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._kinds:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: _Kind) -> None:
        failed = 0
        while True:
            try:
                found, version = await self._cluster.all_of(kind.kind, kind.namespace)
                kind.are(found)
                self._known.add(kind.kind)
                async for what, changed in self._cluster.changes(
                    kind.kind, kind.namespace, version
                ):
                    kind.change(what, changed)
                    failed = 0  # not before: who may list and not watch would list all the time
            except (Rejected, Unavailable) as error:
                facts = {"kind": kind.kind.__name__, "why": error.detail}
                _log.info("watched anew", extra=facts)
            await asyncio.sleep(_AGAIN_S[min(failed, len(_AGAIN_S) - 1)])
            failed += 1

    # -- pods, nodes, lists of sick devices ------------------------------------------------------

    def _pods_are(self, pods: Sequence[Pod]) -> None:
        self._fleet.claims_are(claim for pod in pods if (claim := claim_of(pod)))

    def _pod(self, what: str, pod: Pod) -> None:
        uid = (pod.metadata.uid if pod.metadata else None) or ""
        if what == "DELETED":
            self._fleet.lose_pod(uid)
        else:
            settled = over(pod) or bool(pod.spec and pod.spec.nodeName)
            self._fleet.see_pod(uid, claim_of(pod), bound=settled)

    def _nodes_are(self, nodes: Sequence[Node]) -> None:
        self._fleet.nodes_are({_name(node): _shared(node) for node in nodes})

    def _node(self, what: str, node: Node) -> None:
        if what == "DELETED":
            self._fleet.lose_node(_name(node))
        else:
            self._fleet.see_node(_name(node), _shared(node))

    def _maps_are(self, maps: Sequence[ConfigMap]) -> None:
        self._fleet.sick_are(dict(found for each in maps if (found := sick_of(each))))

    def _map(self, what: str, changed: ConfigMap) -> None:
        if (found := sick_of(changed)) is None:
            return
        node, devices = found
        if what == "DELETED":
            self._fleet.lose_sick(node)
        else:
            self._fleet.see_sick(node, devices)


def _name(node: Node) -> str:
    return (node.metadata.name if node.metadata else None) or ""


def _shared(node: Node) -> GpuNode | None:
    try:
        return node_of(node)
    except InvalidSpec as error:
        _log.warning("node left out", extra={"node": _name(node), "why": error.detail})
        return None
