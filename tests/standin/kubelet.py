"""A stand-in for kubelet, as far as device plugins are concerned: they register, it watches their
devices, and has some allocated to containers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from singularity.gpushare.kubelet import KUBELET, MESSAGE, PLUGIN, REGISTRATION, call, served

_LIMIT_S = 30.0


class Kubelet:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.registered: list[Any] = []
        self.devices: dict[str, str] = {}  # health by name, as told last
        self._channels: list[Any] = []
        self._server: Any = None
        self.start()

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((served("Registration", REGISTRATION, self),))
        self._server.add_insecure_port(f"unix://{self._directory / KUBELET}")
        self._server.start()

    def begin_anew(self) -> None:
        """As it does: it removes what is in the directory."""
        self._server.stop(0).wait()
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)
        self.registered.clear()
        self.start()

    def Register(self, asked: Any, _: Any) -> Any:  # noqa: N802 (as kubelet names it)
        self.registered.append(asked)
        threading.Thread(target=self._watch, args=(asked.endpoint,), daemon=True).start()
        return MESSAGE["Empty"]()

    def _watch(self, endpoint: str) -> None:
        try:
            for told in self._ask(endpoint, "ListAndWatch")(MESSAGE["Empty"]()):
                self.devices = {device.ID: device.health for device in told.devices}
        except grpc.RpcError:
            return  # it is gone

    def _ask(self, endpoint: str, method: str) -> Any:
        channel = grpc.insecure_channel(f"unix://{self._directory / endpoint}")
        self._channels.append(channel)
        return call(channel, "DevicePlugin", PLUGIN, method)

    def allocate(self, units: int) -> Any:
        """For one container, as kubelet does: what the plugin prefers, then those. Raises
        grpc.RpcError."""
        endpoint, free = self.registered[-1].endpoint, sorted(self.devices)
        wants = MESSAGE["ContainerPreferredAllocationRequest"](
            available_deviceIDs=free, allocation_size=units
        )
        asked = MESSAGE["PreferredAllocationRequest"](container_requests=[wants])
        (chosen,) = self._ask(endpoint, "GetPreferredAllocation")(asked).container_responses
        ids: Sequence[str] = list(chosen.deviceIDs)
        request = MESSAGE["ContainerAllocateRequest"](devicesIDs=ids)
        given = MESSAGE["AllocateRequest"](container_requests=[request])
        (found,) = self._ask(endpoint, "Allocate")(given, timeout=_LIMIT_S).container_responses
        return found, ids

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._server.stop(0).wait()
