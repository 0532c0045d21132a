"""What accelerators this node has and how they are, as its heartbeat says it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from singularity.primitives.errors import DeviceUnavailable
from singularity.primitives.messages import DeviceNote, SharerNote

from .hal.cpu import CpuManager
from .hal.cuda import CudaManager
from .hal.faces import DeviceManager

log = logging.getLogger(__name__)


def manager(kind: str, count: int = 1) -> DeviceManager:
    """Who knows the devices of a node of this kind, of which it is said to have `count`."""
    return CpuManager(count=count) if kind == "cpu" else CudaManager()


def look(
    devices: DeviceManager, sharers: Mapping[int, Sequence[SharerNote]], *, yields: bool = False
) -> tuple[DeviceNote, ...]:
    """All that there are now, and which ranks share them; `yields` is the node's. None, and a line
    in the log, where the driver does not answer."""
    try:
        return tuple(
            DeviceNote(**asdict(facts), sharers=tuple(sharers.get(facts.index, ())), yields=yields)
            for facts in devices.devices()
        )
    except DeviceUnavailable as error:
        log.warning("devices.unknown", extra={"reason": error.detail})
        return ()
