"""What is said of how a rank fares that has a share of a device."""

from __future__ import annotations

import pytest

from singularity.agent.device.fare import Fare
from singularity.agent.sharing import seat_of
from singularity.api.views import sharing_reasons
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.sharing import DeviceShare

HALF = DeviceShare(500, 1)


def test_slowdown_is_time_with_work_over_time_at_work() -> None:
    assert Fare().after(HALF, 5.0, 3.0, 2.0).slowdown == 1.5
    assert Fare().after(HALF, 5.0, 2.0, 2.0).slowdown == 1.0
    assert Fare().after(HALF, 5.0, 0.0, 0.0).slowdown is None, "of whoever does nothing"
    assert Fare().after(HALF, 5.0, 5.0, 0.0).slowdown == 1000.0, "a number that can be told"
    two = Fare().after(HALF, 5.0, 3.0, 2.0).told().after(HALF, 2.0, 2.0, 2.0)
    assert (two.slowdown, two.busy, two.held_s) == (1.0, 1.0, 1.0), "held is in all"


@pytest.mark.parametrize(
    ("wanted_s", "got_s", "lost_s"),
    [(10.0, 5.0, 0.0), (10.0, 3.0, 2.0), (2.0, 1.0, 1.0), (10.0, 9.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_what_a_rank_lacks_is_what_it_was_promised_and_had_work_for(
    wanted_s: float, got_s: float, lost_s: float
) -> None:
    assert Fare().after(HALF, 10.0, wanted_s, got_s).lost_s == lost_s


def test_each_rank_has_its_own_seat() -> None:
    start = Start(
        job=JobId("j"),
        node=NodeId("n"),
        incarnation=1,
        gang=(NodeId("n"),),
        world=4,
        ranks=(2, 3),
        slots=(0, 1),
        devices=2,
        run=("x",),
        share=DeviceShare(500, 1),
        indices=(5, 0),
    )
    assert [seat_of(start, rank) for rank in (2, 3)] == [(5, start.share), (0, start.share)]
    assert seat_of(start.model_copy(update={"share": None}), 2) is None


def test_why_tells_what_sharing_costs() -> None:
    one = {"node": "n", "index": 1, "rank": 0, "used_bytes": 3 << 20, "cap_bytes": 8 << 20}
    told = [
        {**one, "slowdown": 1.5, "held_s": 60.4, "lost_s": 12.1, "complaint": ""},
        {**one, "slowdown": None, "complaint": "no shim"},
        {**one, "slowdown": None, "complaint": "", "unyielding": 0.25},
    ]
    assert [reason["detail"] for reason in sharing_reasons(told)] == [
        "rank 0 on device 1 of n: its work takes 1.50 times as long as alone; it was kept "
        "waiting for others for 60 s, 12 s of them promised to it; 3 of 8 MiB in use",
        "rank 0 on device 1 of n: 3 of 8 MiB in use; not enforced: no shim",
        "rank 0 on device 1 of n: 3 of 8 MiB in use; 25% of its launches cannot leave the device "
        "block by block",
    ]
