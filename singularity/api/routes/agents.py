"""/v1/agent: what nodes say, and what they may hear. A node speaks for itself only."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from singularity.api.auth import Caller, Role
from singularity.api.services import Anyone, Serving
from singularity.primitives.errors import Forbidden, InvalidSpec
from singularity.primitives.faults import losses, unwell
from singularity.primitives.messages import (
    Admission,
    Heartbeat,
    Pulse,
    Register,
    Report,
    Wire,
)
from singularity.primitives.nodes import Duty, Scope, ScopeKind

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_DEVICES_MOST = 4096  # of one node, each a row
_EPOCH_MOST = 2**30  # what follows must still fit its column

router = APIRouter(prefix="/v1/agent", tags=["agent"])


class Reports(Wire):
    reports: tuple[Report, ...] = Field(max_length=10_000)


@router.post("/register")
def register(body: Register, who: Anyone, serving: Serving) -> Admission:
    """Admit a node. One that joins with a join token gets a token of its own, and so does one whose
    own shall be another. It comes to the broker as a user that sees its own letters only, where the
    broker lets us make such."""
    _check(body)
    serving.enrolment.need_welcome(who, body.node)
    now_s, settings = serving.clock.now_s(), serving.settings
    node = serving.ledger.register(body, now_s)
    if any(drain.scope.holds(node) for drain in serving.ledger.drains()):
        serving.ledger.set_duty(Scope(ScopeKind.NODE, node.id), Duty.DRAINING, now_s)
    token = serving.enrolment.credential(who, node.id, now_s)
    serving.waker.wake()
    return Admission(
        epoch=node.epoch,
        token=token,
        verify_key=serving.key.public,
        broker_url=serving.enrolment.broker_url(node.id),
        heartbeat_every_s=settings.heartbeat_every_s,
        lease_s=settings.lease_s,
    )


def _check(body: Register) -> None:
    """Names become parts of paths and of queue names. Raises InvalidSpec."""
    named = {"node": body.node, "region": body.region, "cluster": body.cluster}
    for field, name in {**named, "device": body.device}.items():
        if not _NAME.fullmatch(name):
            raise InvalidSpec(f"{field} {name[:64]!r} is no name", field=field)
    if len(body.address) > 255 or not body.address.isprintable():
        raise InvalidSpec("the address is no address", field="address")
    if len(body.rack) > 63 or (body.rack and not body.rack.isprintable()):
        raise InvalidSpec("the rack is no name", field="rack")
    if body.epoch > _EPOCH_MOST:
        raise InvalidSpec("there was no such epoch", field="epoch")
    if body.devices > _DEVICES_MOST:
        raise InvalidSpec(f"a node may have {_DEVICES_MOST} devices", field="devices")


@router.post("/heartbeat")
def heartbeat(body: Heartbeat, who: Anyone, serving: Serving) -> Pulse:
    """Renew the node's lease. What it repeats in its heartbeat counts only when it is admitted:
    a node that was declared lost has nothing to say about jobs that others run now."""
    who.need_node(body.node)
    now_s = serving.clock.now_s()
    if who.expiring:  # so that it registers, and is given another
        return Pulse(admitted=False, written=0, lease_s=serving.settings.lease_s)
    written = serving.ledger.hear(body.node, body.epoch, body.acknowledged, now_s)
    if written is None:
        return Pulse(admitted=False, written=0, lease_s=serving.settings.lease_s)
    if body.devices is not None:
        serving.inventory.note(body.node, body.devices, now_s)
        serving.ledger.examine(body.node, unwell(body.devices))
        if lost := losses(body.devices):
            serving.ledger.charge(body.node, lost, now_s)
    _need_nodes(body.reports, who)
    done = serving.desk.record(body.reports, news=False)
    forget = _forgotten(body.reports, done)
    return Pulse(
        admitted=True, written=written, lease_s=serving.settings.lease_s, forget=tuple(forget)
    )


@router.post("/report")
async def report(body: Reports, who: Anyone, serving: Serving) -> dict[str, Any]:
    _need_nodes(body.reports, who)
    done = await serving.desk.recorded(body.reports, news=True)
    return {"forget": _forgotten(body.reports, done)}


def _need_nodes(reports: tuple[Report, ...], who: Caller) -> None:
    for one in reports:
        who.need_node(one.node)


def _forgotten(reports: tuple[Report, ...], done: list[bool]) -> list[tuple[Any, int]]:
    """What need not be repeated, out of `reports`."""
    return [(r.job, r.incarnation) for r, gone in zip(reports, done, strict=True) if gone]


@router.get("/letters")
def letters(
    who: Anyone,
    serving: Serving,
    epoch: Annotated[int, Query(ge=1)],
    after: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """What was written to the calling node: the way around a broker that is down."""
    if who.role is not Role.AGENT or who.node is None:
        raise Forbidden("only an agent has letters")
    found = serving.ledger.letters(who.node, epoch, after)
    return {"letters": [serving.key.seal(envelope).model_dump() for envelope in found]}


@router.get("/peers/{node}")
def peer(node: str, who: Anyone, serving: Serving) -> dict[str, str]:
    """Where another agent listens; told to those that run a job together with it."""
    if who.role is not Role.AGENT or who.node is None:
        raise Forbidden("only an agent has peers")
    if who.node != node and not serving.store.neighbours(who.node, node):
        raise Forbidden(f"{who.node} runs no job together with {node}")
    return {"node": node, "address": serving.store.address(node)}
