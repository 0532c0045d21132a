"""A device plugin for kubelet: as many devices as the node's GPUs have units of memory; and a
container is given the GPU that the extender chose for its pod, and held to its share of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from singularity.agent.hal.faces import DeviceFacts
from singularity.primitives.errors import InvalidSpec, SingularityError

from .cluster import Cluster
from .containers import INSIDE, Containers
from .kubelet import HEALTHY, MESSAGE, UNHEALTHY
from .matching import Waiting, expected, served
from .reading import waiting_of
from .shares import Claim

_MESSAGE_MOST: Final = 4 << 20  # bytes, that kubelet takes at once
_ASKED_AGAIN: Final = (
    0.0,
    0.3,
    1.0,
    2.0,
)  # seconds: the API server may tell of a pod after kubelet


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    uuid: str
    units: int
    healthy: bool


def gpus_of(facts: Sequence[DeviceFacts], unit_bytes: int) -> list[Gpu]:
    return [
        Gpu(each.index, each.uuid, each.memory_bytes // unit_bytes, not each.health)
        for each in facts
    ]


def listed(gpus: Sequence[Gpu]) -> Any:
    """ListAndWatchResponse. The names are short, for there are many. Raises InvalidSpec."""
    devices = [
        MESSAGE["Device"](ID=f"{gpu.index}.{number}", health=HEALTHY if gpu.healthy else UNHEALTHY)
        for gpu in gpus
        for number in range(gpu.units)
    ]
    found = MESSAGE["ListAndWatchResponse"](devices=devices)
    if found.ByteSize() > _MESSAGE_MOST:
        raise InvalidSpec(
            f"{len(devices)} units are more than kubelet takes in one message; count in GiB"
            " (SINGULARITY_GPUSHARE_UNIT=GiB)"
        )
    return found


def preferred(index: int, available: Sequence[str], must: Sequence[str], count: int) -> list[str]:
    """Units of that GPU first."""
    rest = (unit for unit in available if unit not in set(must))
    return [*must, *sorted(rest, key=lambda unit: not unit.startswith(f"{index}."))][:count]


class Plugin:
    """The service DevicePlugin, by its own names. `gpus` may be set anew; whoever watches is
    told."""

    def __init__(
        self, cluster: Cluster, node: str, containers: Containers, unit_bytes: int
    ) -> None:
        self._cluster, self._node, self._containers = cluster, node, containers
        self._unit_bytes = unit_bytes
        self._gpus: list[Gpu] = []
        self._news = asyncio.Condition()
        self._turn = asyncio.Lock()

    async def tell(self, gpus: list[Gpu]) -> None:
        if gpus != self._gpus:
            listed(gpus)
            async with self._news:
                self._gpus = gpus
                self._news.notify_all()

    async def GetDevicePluginOptions(self, _: Any, __: Any) -> Any:  # noqa: N802
        return MESSAGE["DevicePluginOptions"](get_preferred_allocation_available=True)

    async def ListAndWatch(self, _: Any, __: Any) -> AsyncIterator[Any]:  # noqa: N802
        while True:
            told = self._gpus
            yield listed(told)
            async with self._news:
                while self._gpus == told:
                    await self._news.wait()

    async def GetPreferredAllocation(self, asked: Any, _: Any) -> Any:  # noqa: N802
        """So that kubelet counts the same GPU as busy."""
        found = []
        for each in asked.container_requests:
            known = expected(await self._waiting(), self._containers.given(), each.allocation_size)
            index = known[0].claim.index if known else -1
            must = list(each.must_include_deviceIDs)
            units = preferred(index, each.available_deviceIDs, must, each.allocation_size)
            found.append(MESSAGE["ContainerPreferredAllocationResponse"](deviceIDs=units))
        return MESSAGE["PreferredAllocationResponse"](container_responses=found)

    async def Allocate(self, asked: Any, context: Any) -> Any:  # noqa: N802
        """Fails where no pod waits for so much: the container is not started without a device."""
        try:
            async with self._turn:
                found = [
                    await self._give(len(each.devicesIDs)) for each in asked.container_requests
                ]
        except SingularityError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.detail)
        return MESSAGE["AllocateResponse"](container_responses=found)

    async def _give(self, units: int) -> Any:
        pod, name = await self._whose(units)
        claim, gpu = pod.claim, self._gpu(pod.claim)
        cap_bytes = units * self._unit_bytes
        directory, env = self._containers.prepare((claim.uid, name), units, cap_bytes)
        if served(pod, self._containers.given()):
            await self._cluster.assigned(claim.namespace, claim.name)
        said = {
            "ALIYUN_COM_GPU_MEM_IDX": str(claim.index),
            "ALIYUN_COM_GPU_MEM_POD": str(claim.units),
            "ALIYUN_COM_GPU_MEM_CONTAINER": str(units),
            "ALIYUN_COM_GPU_MEM_DEV": str(gpu.units),
            "NVIDIA_VISIBLE_DEVICES": gpu.uuid,
        }
        mount = MESSAGE["Mount"](container_path=INSIDE, host_path=str(directory))
        mounts = [mount] if env else []
        return MESSAGE["ContainerAllocateResponse"](envs={**said, **env}, mounts=mounts)

    async def _whose(self, units: int) -> tuple[Waiting, str]:
        """Raises InvalidSpec."""
        for wait_s in _ASKED_AGAIN:
            await asyncio.sleep(wait_s)
            found = expected(await self._waiting(), self._containers.given(), units)
            if found is not None:
                return found
        raise InvalidSpec(
            f"no pod that was bound to {self._node} waits for {units} units; is its scheduler"
            " told to ask the extender?"
        )

    async def _waiting(self) -> list[Waiting]:
        pods = await self._cluster.pods_on(self._node)
        return [found for pod in pods if (found := waiting_of(pod))]

    def _gpu(self, claim: Claim) -> Gpu:
        """Raises InvalidSpec."""
        found = next((gpu for gpu in self._gpus if gpu.index == claim.index), None)
        if found is None:
            raise InvalidSpec(f"{claim.name} was given GPU {claim.index}, and there is none here")
        return found
