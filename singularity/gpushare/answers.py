"""The requests of a Kubernetes scheduler and their answers, in the names that Go gives them. Pure.

Names come in any case; they go out as they are here. https://pkg.go.dev/k8s.io/kube-scheduler/extender/v1
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from lightkube.resources.core_v1 import Pod

from singularity.primitives.errors import InvalidSpec

from .fleet import Fleet
from .reading import request_of
from .shares import GpuNode, Request, choose, score, victims

Json = dict[str, Any]
FULL: Final = "Insufficient GPU Memory in one device"
NO_POD: Final = "arg or pod is nil"


def skipped(node: str) -> str:
    return f"The node {node} is not for GPU share, need skip"


def unknown(node: str) -> str:
    return f'node "{node}" not found'


def body_of(content: bytes) -> Json:
    """An object, by its names in lower case. Raises InvalidSpec."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InvalidSpec(f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidSpec("the body is not an object of JSON")
    return {str(key).lower(): value for key, value in found.items()}


def _pod(body: Json) -> Request:
    said = body.get("pod")
    if not isinstance(said, dict):
        raise InvalidSpec(NO_POD)
    spec = {"containers": [], **(said.get("spec") or {})}
    try:
        return request_of(msgspec.convert({**said, "spec": spec}, Pod))
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"the pod cannot be read: {error}") from error


# -- filter and prioritize ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidates:
    """A pod and the nodes that it may go to. `objects` are those nodes as they were sent; None
    where names were."""

    request: Request
    names: tuple[str, ...]
    objects: tuple[Json, ...] | None = None


def candidates(body: Json) -> Candidates:
    """Names win where both are there. Raises InvalidSpec."""
    request, names, nodes = _pod(body), body.get("nodenames"), body.get("nodes")
    if isinstance(names, list):
        return Candidates(request, tuple(map(str, names)))
    if not isinstance(nodes, dict):
        raise InvalidSpec("cannot get node names")
    items = tuple(item for item in nodes.get("items") or () if isinstance(item, dict))
    found = tuple(str((item.get("metadata") or {}).get("name", "")) for item in items)
    return Candidates(request, found, items)


def filtered(asked: Candidates, fleet: Fleet, now_s: float) -> Json:
    """ExtenderFilterResult: the nodes where it fits on one device, and why not on the others."""
    failed = {
        name: why for name in asked.names if (why := _why_not(asked.request, name, fleet, now_s))
    }
    fit = [name for name in asked.names if name not in failed]
    nodes = None
    if asked.objects is not None:
        both = zip(asked.names, asked.objects, strict=True)
        nodes = {"items": [item for name, item in both if name not in failed]}
    return _filter_result(nodes, fit, failed, "")


def unfiltered(error: str) -> Json:
    return _filter_result(None, None, None, error)


def _filter_result(
    nodes: Json | None, names: Sequence[str] | None, failed: Mapping[str, str] | None, error: str
) -> Json:
    return {
        "Nodes": nodes,
        "NodeNames": names,
        "FailedNodes": failed,
        "FailedAndUnresolvableNodes": None,
        "Error": error,
    }


def _why_not(request: Request, name: str, fleet: Fleet, now_s: float) -> str:
    """ "" where it fits; whoever asks for nothing fits wherever GPUs are shared."""
    try:
        node = fleet.node(name)
    except KeyError:
        return unknown(name)
    if node is None:
        return skipped(name)
    if request.units and choose(node, fleet.claims(name, now_s), request) is None:
        return FULL
    return ""


def prioritized(asked: Candidates, fleet: Fleet, now_s: float) -> list[Json]:
    """HostPriorityList."""
    found = []
    for name in asked.names:
        node = _shared(name, fleet)
        points = score(node, fleet.claims(name, now_s), asked.request) if node else 0
        found.append({"Host": name, "Score": points})
    return found


def _shared(name: str, fleet: Fleet) -> GpuNode | None:
    """None of a node that shares no GPUs, or is none."""
    return fleet.node(name) if name in fleet.nodes else None


# -- preempt --------------------------------------------------------------------------------------


def preempted(body: Json, fleet: Fleet, now_s: float) -> Json:
    """ExtenderPreemptionResult: the nodes where it fits once all named pods have left. Raises
    InvalidSpec."""
    request, found = _pod(body), dict[str, Json]()
    for name, said in _victims(body).items():
        node = _shared(name, fleet)
        chosen = _uids(said)
        enough: list[str] | None = chosen
        if request.units:
            claims = fleet.claims(name, now_s)
            enough = victims(node, claims, request, chosen) if node else None
        if enough is not None:
            against = said.get("numpdbviolations", 0)
            found[name] = {"Pods": [{"UID": uid} for uid in enough], "NumPDBViolations": against}
    return {"NodeNameToMetaVictims": found}


def _victims(body: Json) -> dict[str, Json]:
    """Whom the scheduler would end, by node."""
    said = body.get("nodenametometavictims") or body.get("nodenametovictims")
    if not isinstance(said, dict):
        raise InvalidSpec("there are neither NodeNameToVictims nor NodeNameToMetaVictims")
    return {
        str(node): {str(key).lower(): value for key, value in (of_node or {}).items()}
        for node, of_node in said.items()
    }


def _uids(said: Json) -> list[str]:
    """Of pods that are whole, or of which there is no more than the UID."""
    pods = [{str(k).lower(): v for k, v in pod.items()} for pod in said.get("pods") or ()]
    return [str(pod.get("uid") or (pod.get("metadata") or {}).get("uid", "")) for pod in pods]


# -- inspect --------------------------------------------------------------------------------------


def inspected(nodes: Sequence[GpuNode], fleet: Fleet, now_s: float) -> Json:
    return {"nodes": [_inspected(node, fleet, now_s) for node in nodes]}


def without_gpus(name: str) -> Json:
    return {"nodes": [{"name": name, "totalGPU": 0, "usedGPU": 0, "devs": []}]}


def _inspected(node: GpuNode, fleet: Fleet, now_s: float) -> Json:
    claims = sorted(fleet.claims(node.name, now_s), key=lambda c: (c.namespace, c.name))
    devs = [
        {
            "id": index,
            "totalGPU": size,
            "usedGPU": sum(c.units for c in claims if c.index == index),
            "pods": [
                {"name": c.name, "namespace": c.namespace, "usedGPU": c.units}
                for c in claims
                if c.index == index
            ],
        }
        for index, size in enumerate(node.sizes)
    ]
    used = sum(claim.units for claim in claims)
    return {"name": node.name, "totalGPU": node.total, "usedGPU": used, "devs": devs}
