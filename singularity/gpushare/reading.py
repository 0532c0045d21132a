"""Objects of Kubernetes, as far as they speak of shares: pods, nodes and lists of sick devices."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from lightkube.models.core_v1 import Container
from lightkube.resources.core_v1 import ConfigMap, Node, Pod

from singularity.primitives.errors import InvalidSpec

from .matching import Waiting
from .quantity import units
from .shares import Claim, GpuNode, Packing, Request

MEMORY: Final = "aliyun.com/gpu-mem"
COUNT: Final = "aliyun.com/gpu-count"
INDEX: Final = "ALIYUN_COM_GPU_MEM_IDX"
DEVICE: Final = "ALIYUN_COM_GPU_MEM_DEV"
HELD: Final = "ALIYUN_COM_GPU_MEM_POD"
ASSIGNED: Final = "ALIYUN_COM_GPU_MEM_ASSIGNED"
ASSUMED: Final = "ALIYUN_COM_GPU_MEM_ASSUME_TIME"
SIZES: Final = "singularity.dev/gpu-mem-sizes"  # of a node whose devices differ: "16276,81920"
PACKING: Final = "singularity.dev/gpushare-packing"  # of a pod: binpack or spread
SYSTEM: Final = "kube-system"
_SICK: Final = "unhealthy-gpu-"
_OVER: Final = ("Succeeded", "Failed")


def request_of(pod: Pod) -> Request:
    """Raises InvalidSpec where the pod says what cannot be understood."""
    meta = pod.metadata
    if meta is None:
        raise InvalidSpec("a pod without metadata")
    said = (meta.annotations or {}).get(PACKING, Packing.BINPACK)
    if said not in tuple(Packing):
        raise InvalidSpec(f"{PACKING} is {said!r}; it may be {' or '.join(Packing)}")
    return Request(
        uid=meta.uid or "",
        namespace=meta.namespace or "default",
        name=meta.name or "",
        units=_wanted(pod),
        priority=(pod.spec.priority if pod.spec else None) or 0,
        packing=Packing(said),
    )


def _wanted(pod: Pod) -> int:
    """All containers run together; before them init containers, one by one, but for those that go
    on beside what follows (sidecars)."""
    if pod.spec is None:
        return 0
    beside = most = 0
    for container in pod.spec.initContainers or ():
        asked = _limit(container)
        if container.restartPolicy == "Always":
            beside += asked
            most = max(most, beside)
        else:
            most = max(most, beside + asked)
    return max(most, beside + sum(map(_limit, pod.spec.containers)))


def _limit(container: Container) -> int:
    limits = (container.resources.limits if container.resources else None) or {}
    found = units(limits.get(MEMORY, "0"))
    if found < 0:
        raise InvalidSpec(f"{MEMORY} of {container.name} is {found}; it must be 0 or more")
    return found


def over(pod: Pod) -> bool:
    """Have all of its containers ended, for good? One that is being deleted may still run."""
    return pod.status is not None and pod.status.phase in _OVER


def claim_of(pod: Pod) -> Claim | None:
    """What it holds; None of a pod that is not bound, has ended, or was never given a device."""
    meta, spec = pod.metadata, pod.spec
    if meta is None or spec is None or not spec.nodeName or over(pod):
        return None
    said = meta.annotations or {}
    index = _number(said.get(INDEX))
    if index is None or index < 0:
        return None
    return Claim(
        uid=meta.uid or "",
        namespace=meta.namespace or "default",
        name=meta.name or "",
        node=spec.nodeName,
        index=index,
        units=max(0, _number(said.get(HELD)) or 0),
        priority=spec.priority or 0,
    )


def waiting_of(pod: Pod) -> Waiting | None:
    """What was chosen for it and is to be handed over, or was; None of a pod without a device."""
    claim, meta, spec = claim_of(pod), pod.metadata, pod.spec
    if claim is None or meta is None or spec is None:
        return None
    said = meta.annotations or {}
    both = (*(spec.initContainers or ()), *spec.containers)
    wants = tuple((each.name, units) for each in both if (units := _limit(each)))
    over = said.get(ASSIGNED) != "false"
    return Waiting(claim, wants, _number(said.get(ASSUMED)) or 0, handed_over=over)


def node_of(node: Node) -> GpuNode | None:
    """None of a node that shares no GPUs. Raises InvalidSpec where it says what nobody
    understands."""
    has = (node.status.capacity if node.status else None) or {}
    total, count = units(has.get(MEMORY, "0")), units(has.get(COUNT, "0"))
    if total <= 0 or node.metadata is None:
        return None
    sizes = (total // count,) * count if count > 0 else ()
    if said := (node.metadata.annotations or {}).get(SIZES):
        sizes = tuple(units(size) for size in said.split(","))
        if min(sizes) < 0 or (count and len(sizes) != count):
            raise InvalidSpec(f"{SIZES} is {said!r}, and there are {count} devices")
    return GpuNode(node.metadata.name or "", total, sizes)


def sick_of(listed: ConfigMap) -> tuple[str, frozenset[int]] | None:
    """A node, and its devices that must not be used; None of any other map."""
    name = (listed.metadata.name if listed.metadata else None) or ""
    if not name.startswith(_SICK):
        return None
    words = ((listed.data or {}).get("gpus") or "").replace(",", " ").split()
    found = (_number(word) for word in words)
    return name.removeprefix(_SICK), frozenset(i for i in found if i is not None and i >= 0)


def sick_list(node: str) -> str:
    """The name of the map that lists them."""
    return f"{_SICK}{node}"


def _number(text: str | None) -> int | None:
    with suppress(TypeError, ValueError):
        return int(text or "")
    return None
