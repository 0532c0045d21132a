"""What accelerators this node has and how they are, as its heartbeat says it."""

from __future__ import annotations

import logging
from dataclasses import asdict

from singularity.primitives.errors import DeviceUnavailable
from singularity.primitives.messages import DeviceNote

from .hal.cpu import CpuManager
from .hal.cuda import CudaManager
from .hal.faces import DeviceManager

log = logging.getLogger(__name__)


def manager(kind: str) -> DeviceManager:
    """Who knows the devices of a node of this kind."""
    return CpuManager() if kind == "cpu" else CudaManager()


def look(devices: DeviceManager) -> tuple[DeviceNote, ...]:
    """All that there are now; none, and a line in the log, where the driver does not answer."""
    try:
        return tuple(DeviceNote(**asdict(facts)) for facts in devices.devices())
    except DeviceUnavailable as error:
        log.warning("devices.unknown", extra={"reason": error.detail})
        return ()
