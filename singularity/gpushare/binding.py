"""Binds a pod to a node, and to that device of it where it fits best."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from lightkube.resources.core_v1 import ConfigMap, Pod

from singularity.primitives.clock import Clock
from singularity.primitives.errors import (
    Conflict,
    NotFound,
    Rejected,
    SingularityError,
    Unplaceable,
)

from . import reservations
from .answers import FULL, Json, skipped
from .cluster import Cluster
from .fleet import Fleet
from .reading import (
    ASSIGNED,
    ASSUMED,
    DEVICE,
    HELD,
    INDEX,
    MEMORY,
    claim_of,
    node_of,
    over,
    request_of,
)
from .reservations import Reservation
from .shares import Claim, GpuNode, Request, choose

_TRIES: Final = 20  # each that fails is one that another has won


class Binder:
    """Any number of these may be at work in a cluster. What is held and promised on a node is asked
    of the API server each time, not remembered: others bind, too."""

    def __init__(self, cluster: Cluster, fleet: Fleet, clock: Clock) -> None:
        self._cluster, self._fleet, self._clock = cluster, fleet, clock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def bind(self, body: Json) -> None:
        """ExtenderBindingArgs, by names in lower case. Raises SingularityError; then the pod is as
        it was, unless the API server did not answer."""
        namespace, name = str(body.get("podnamespace") or "default"), body.get("podname")
        where = body.get("node")
        if not isinstance(name, str) or not isinstance(where, str):
            raise Rejected("PodName and Node must be given")
        pod = await self._cluster.pod(namespace, name)
        request = _unbound(pod, str(body.get("poduid") or ""))
        async with self._turns[where]:
            node = await self._node(where)
            claim = await self._reserve(node, request)
            try:
                await self._cluster.bind(pod, where, self._said(node, claim))
            except Rejected:
                await self._give_back(claim)
                raise
        self._fleet.assume(claim, self._clock.now_s())

    async def _node(self, name: str) -> GpuNode:
        try:
            node = self._fleet.node(name)
        except KeyError:  # younger than what is known
            node = node_of(await self._cluster.node(name))
        if node is None:
            raise Unplaceable(skipped(name))
        return node

    async def _reserve(self, node: GpuNode, request: Request) -> Claim:
        """A device with room, that is from now on promised to nobody else."""
        for _ in range(_TRIES):
            book, kept = await self._book(node.name)
            bound = [c for pod in await self._cluster.pods_on(node.name) if (c := claim_of(pod))]
            now_s = self._clock.now_s()
            unseen = reservations.outstanding(kept, bound, now_s)
            kept = [each for each in unseen if await self._stands(each.claim)]
            index = choose(node, [*bound, *(r.claim for r in kept)], request)
            if index is None:
                raise Unplaceable(f"{FULL}: no GPU of {node.name} has {request.units} left")
            claim = Claim(
                uid=request.uid,
                namespace=request.namespace,
                name=request.name,
                node=node.name,
                index=index,
                units=request.units,
                priority=request.priority,
            )
            with suppress(Conflict):
                await self._write(node.name, book, [*kept, Reservation(claim, now_s)])
                return claim
        raise Conflict(f"others were faster on {node.name} for {_TRIES} times; it is tried again")

    async def _stands(self, claim: Claim) -> bool:
        """Is its pod still to be bound, or was it by now? One that is gone needs nothing."""
        try:
            pod = await self._cluster.pod(claim.namespace, claim.name)
        except NotFound:
            return False
        same = pod.metadata is not None and pod.metadata.uid == claim.uid
        elsewhere = pod.spec is not None and pod.spec.nodeName not in (None, "", claim.node)
        return same and not elsewhere and not over(pod)

    async def _give_back(self, claim: Claim) -> None:
        """What was reserved for a pod that was not bound. Where that fails, it ends by itself."""
        with suppress(SingularityError):
            book, kept = await self._book(claim.node)
            await self._write(claim.node, book, [r for r in kept if r.claim.uid != claim.uid])

    async def _book(self, node: str) -> tuple[ConfigMap | None, list[Reservation]]:
        book = await self._cluster.config_map(reservations.name_of(node))
        return book, reservations.read(node, book.data if book else None)

    async def _write(self, node: str, book: ConfigMap | None, kept: list[Reservation]) -> None:
        version = book.metadata.resourceVersion if book and book.metadata else None
        await self._cluster.write(reservations.name_of(node), reservations.written(kept), version)

    def _said(self, node: GpuNode, claim: Claim) -> Mapping[str, str]:
        """To the device plugin, which then gives this device to the pod, and says ASSIGNED."""
        return {
            INDEX: str(claim.index),
            HELD: str(claim.units),
            DEVICE: str(node.sizes[claim.index]),
            ASSIGNED: "false",
            ASSUMED: str(int(self._clock.now_s() * 1e9)),
        }


def _unbound(pod: Pod, uid: str) -> Request:
    """Raises Conflict of a pod that is not the one meant, or is bound already; Rejected of one that
    wants no memory."""
    request = request_of(pod)
    if request.uid != uid:
        raise Conflict(f"the uid of pod {request.name} is {request.uid}, and {uid!r} was asked for")
    if pod.spec is not None and pod.spec.nodeName:
        raise Conflict(f"pod {request.name} is bound to {pod.spec.nodeName} already")
    if not request.units:
        raise Rejected(f"pod {request.name} asks for no {MEMORY}: there is nothing to give to it")
    return request
