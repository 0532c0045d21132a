"""Replicas that have shares of devices: where they go, and what they borrow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from singularity.primitives.model import JobId, Tier
from singularity.primitives.sharing import GIB, DeviceShare, Part, Precedence
from singularity.scheduler.services import Service
from tests.unit.service_scene import ServiceScene, service


def sharing(percent: int, **changes: Any) -> Service:
    made = service(**changes)
    part = DeviceShare(percent * 10, GIB, Precedence.REAL_TIME)
    return replace(made, spec=replace(made.spec, share=part))


def test_replicas_with_shares_are_beside_each_other_and_beside_training() -> None:
    scene = ServiceScene(nodes=1, devices=1)
    scene.train("learner", 1, share=DeviceShare(400, GIB))
    scene.go(2)
    scene.serve(sharing(20, least=1, most=3))
    scene.go(10, busy=2.5)
    assert len(scene.ready()) == 3 and scene.ledger.jobs()[JobId("learner")].nodes
    (there,) = scene.ledger.nodes().values()
    assert there.parts == (Part(0, 1000, 4 * GIB),) and there.used == 1
    scene.go(300, busy=0.5)
    assert len(scene.ready()) == 1
    assert scene.ledger.nodes()[there.id].parts == (Part(0, 600, 2 * GIB),)


def test_replicas_with_shares_borrow_a_whole_device_and_share_that() -> None:
    """One is lent for four of them, and comes back when the last of them has gone elsewhere."""
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("learner", 4, least=1, tier=Tier.PREMIUM)
    scene.go(2)
    scene.serve(sharing(25, least=4, most=4))
    scene.go(20)
    learner = scene.ledger.jobs()[JobId("learner")]
    assert len(scene.ready()) == 4 and learner.held == 3
    assert [loan.devices for loan in learner.loans] == [1]
    scene.end()
    scene.go(120)
    learner = scene.ledger.jobs()[JobId("learner")]
    assert learner.held == 4 and learner.loans == ()
