"""The API server of Kubernetes: the only door to it.

How to reach it is found as kubectl does: in a pod by its service account, else by $KUBECONFIG.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx2
import msgspec
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from lightkube.models.core_v1 import ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Node, NodeStatus, Pod, PodBinding
from lightkube.types import PatchType

from singularity.primitives.errors import Conflict, NotFound, Rejected, Unavailable

from .reading import ASSIGNED, COUNT, SIZES, SYSTEM

_CALL_S: Final = 4.0  # the scheduler waits for five
_WATCH_S: Final = 300
_PAGE: Final = 500
EVERYWHERE: Final = "*"


def configured() -> SingleConfig:
    """Raises Unavailable where nothing says how to reach a cluster."""
    found = None
    with suppress(ConfigError):
        found = KubeConfig.from_env().get()
    if found is None:
        raise Unavailable("no cluster is configured: run in a pod, or set KUBECONFIG to a file")
    return found


@contextmanager
def _refusals() -> Iterator[None]:
    """Raises NotFound, Conflict or Rejected by what the server answers; Unavailable where it does
    not."""
    try:
        yield
    except ApiError as error:
        code, why = error.status.code, error.status.message or "refused"
        kind = {404: NotFound, 409: Conflict}.get(code or 0, Rejected)
        raise kind(why) from error
    except httpx2.HTTPError as error:
        raise Unavailable(f"the API server does not answer: {error!r}") from error


class Cluster:
    def __init__(self, config: SingleConfig) -> None:
        known = config if config.user else config._replace(user=User())  # who needs no name
        self._client = AsyncClient(known, timeout=httpx2.Timeout(_CALL_S))

    async def close(self) -> None:
        await self._client.aclose()

    async def pod(self, namespace: str, name: str) -> Pod:
        with _refusals():
            return await self._client.get(Pod, name, namespace=namespace)

    async def node(self, name: str) -> Node:
        with _refusals():
            return await self._client.get(Node, name)

    async def pods_on(self, node: str) -> list[Pod]:
        """As they are now, and not as somebody remembers them."""
        with _refusals():
            listed = self._client.list(Pod, namespace=EVERYWHERE, fields={"spec.nodeName": node})
            return [pod async for pod in listed]

    async def config_map(self, name: str) -> ConfigMap | None:
        try:
            with _refusals():
                return await self._client.get(ConfigMap, name, namespace=SYSTEM)
        except NotFound:
            return None

    async def write(self, name: str, data: dict[str, str], version: str | None) -> None:
        """If it is still of that version; None: if there is none yet. Raises Conflict if not."""
        meta = ObjectMeta(name=name, namespace=SYSTEM, resourceVersion=version)
        found = ConfigMap(metadata=meta, data=data)
        with _refusals():
            await (self._client.create(found) if version is None else self._client.replace(found))

    async def bind(self, pod: Pod, node: str, annotations: Mapping[str, str]) -> None:
        """Node and annotations at once: there is no moment with one of the two."""
        meta = pod.metadata
        assert meta is not None and meta.name is not None
        said = ObjectMeta(
            name=meta.name, namespace=meta.namespace, uid=meta.uid, annotations=dict(annotations)
        )
        target = ObjectReference(apiVersion="v1", kind="Node", name=node)
        # the server answers with a Status, which the library would read as one more binding
        with _refusals(), suppress(msgspec.ValidationError):
            await self._client.create(PodBinding(metadata=said, target=target), name=meta.name)

    async def assigned(self, namespace: str, name: str) -> None:
        """Say of a pod that it was given its device."""
        await self._patch(Pod, name, {"metadata": {"annotations": {ASSIGNED: "true"}}}, namespace)

    async def describe(self, node: str, count: int, sizes: str | None) -> None:
        """How many GPUs a node has, and how large each is where they differ."""
        has = {"capacity": {COUNT: str(count)}, "allocatable": {COUNT: str(count)}}
        await self._patch(NodeStatus, node, {"status": has})
        await self._patch(Node, node, {"metadata": {"annotations": {SIZES: sizes}}})

    async def _patch(self, kind: Any, name: str, change: Any, namespace: str | None = None) -> None:
        with _refusals():
            await self._client.patch(
                kind, name, change, namespace=namespace, patch_type=PatchType.MERGE
            )

    async def all_of(self, kind: Any, namespace: str | None) -> tuple[list[Any], str]:
        """All objects of a kind, and the version at which that is so."""
        with _refusals():
            listed = self._client.list(kind, namespace=namespace, chunk_size=_PAGE)
            return [found async for found in listed], listed.resourceVersion

    async def changes(
        self, kind: Any, namespace: str | None, version: str
    ) -> AsyncIterator[tuple[str, Any]]:
        """What happened since that version, for as long as the server tells."""
        with _refusals():
            told = self._client.watch(
                kind, namespace=namespace, resource_version=version, server_timeout=_WATCH_S
            )
            async for change in told:
                yield change
