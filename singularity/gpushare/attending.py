"""The device plugin at work on one node: heard by kubelet, also by one that begins anew, and told
how the GPUs are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from singularity.agent.hal.faces import DeviceFacts
from singularity.primitives.errors import SingularityError, Unavailable

from .cluster import Cluster
from .containers import Containers
from .kubelet import KUBELET, MESSAGE, PACKAGE, PLUGIN, REGISTRATION, call, served
from .plugin import Gpu, Plugin, gpus_of
from .reading import MEMORY, sick_list, waiting_of

SOCKET: Final = "singularity-gpushare.sock"
_REGISTER_S: Final = 5.0
_LOOK_S, _TIDY_S = 1.0, 60.0
_log = logging.getLogger(__name__)


class Attendant:
    """`look` tells what GPUs there are, and may take its time."""

    def __init__(
        self,
        plugin: Plugin,
        cluster: Cluster,
        containers: Containers,
        look: Callable[[], Sequence[DeviceFacts]],
        unit_bytes: int,
    ) -> None:
        self._plugin, self._cluster, self._containers = plugin, cluster, containers
        self._look, self._unit_bytes = look, unit_bytes
        self._told: list[Gpu] = []

    async def run(self, node: str, directory: Path) -> None:
        """Until it is cancelled. Raises SingularityError where it cannot begin."""
        await self._see(node)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(directory))
            group.create_task(self._keep_seeing(node))
            group.create_task(self._tidy(node))

    async def _serve(self, directory: Path) -> None:
        """Kubelet forgets all plugins when it begins anew, and removes their sockets."""
        while True:
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((served("DevicePlugin", PLUGIN, self._plugin),))
            server.add_insecure_port(f"unix://{directory / SOCKET}")
            await server.start()
            try:
                with suppress(Unavailable):
                    began = _identity(directory)
                    await register(directory)
                    while (directory / SOCKET).exists() and _identity(directory) == began:
                        await asyncio.sleep(_LOOK_S)
            finally:
                await server.stop(None)
                (directory / SOCKET).unlink(missing_ok=True)
            await asyncio.sleep(_LOOK_S)

    async def _keep_seeing(self, node: str) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(SingularityError):
                await self._see(node)

    async def _see(self, node: str) -> None:
        """Tell kubelet how the GPUs are, and the extender which of them it must not use."""
        gpus = gpus_of(await asyncio.to_thread(self._look), self._unit_bytes)
        await self._plugin.tell(gpus)
        if gpus == self._told:
            return
        sizes = [str(gpu.units) for gpu in gpus]
        differ = ",".join(sizes) if len(set(sizes)) > 1 else None
        await self._cluster.describe(node, len(gpus), differ)
        await self._say_sick(node, [str(gpu.index) for gpu in gpus if not gpu.healthy])
        self._told = gpus

    async def _say_sick(self, node: str, sick: Sequence[str]) -> None:
        name = sick_list(node)
        there = await self._cluster.config_map(name)
        if there is None and not sick:
            return
        version = there.metadata.resourceVersion if there and there.metadata else None
        await self._cluster.write(name, {"gpus": ",".join(sick)}, version)

    async def _tidy(self, node: str) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            with suppress(SingularityError):
                pods = await self._cluster.pods_on(node)
                self._containers.keep([w for pod in pods if (w := waiting_of(pod))])


async def register(directory: Path) -> None:
    """Raises Unavailable where kubelet does not listen, or refuses."""
    said = MESSAGE["RegisterRequest"](
        version=PACKAGE,
        endpoint=SOCKET,
        resource_name=MEMORY,
        options=MESSAGE["DevicePluginOptions"](get_preferred_allocation_available=True),
    )
    async with grpc.aio.insecure_channel(f"unix://{directory / KUBELET}") as channel:
        try:
            await call(channel, "Registration", REGISTRATION, "Register")(said, timeout=_REGISTER_S)
        except grpc.aio.AioRpcError as error:
            _log.warning("kubelet does not register the plugin", extra={"why": error.details()})
            raise Unavailable(f"kubelet does not register the plugin: {error.details()}") from error


def _identity(directory: Path) -> int:
    """Of the socket on which kubelet listens; 0 where it does not."""
    with suppress(FileNotFoundError):
        return (directory / KUBELET).stat().st_ino
    return 0
