"""What is said of how a rank fares that has a share of a device."""

from __future__ import annotations

from singularity.agent.sharing import seat_of, slowed
from singularity.api.views import sharing_reasons
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.sharing import DeviceShare


def test_slowdown_is_time_able_to_run_over_time_run() -> None:
    assert slowed(2.0, 1.0, 5.0) == 1.5
    assert slowed(2.0, 0.0, 5.0) == 1.0
    assert slowed(2.0, -0.5, 5.0) == 1.0, "a thread that ended took its waiting with it"
    assert slowed(0.0, 1.0, 5.0) is None, "of whoever did nothing nobody can tell"


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
        {**one, "slowdown": 1.5, "complaint": ""},
        {**one, "slowdown": None, "complaint": "no shim"},
    ]
    assert [reason["detail"] for reason in sharing_reasons(told)] == [
        "rank 0 on device 1 of n: its work takes 1.50 times as long as alone; 3 of 8 MiB in use",
        "rank 0 on device 1 of n: 3 of 8 MiB in use; not enforced: no shim",
    ]
