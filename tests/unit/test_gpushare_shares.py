"""Shares of GPUs on Kubernetes: quantities, objects, reservations, and who must leave for whom."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube.resources.core_v1 import ConfigMap, Node, Pod

from singularity.gpushare import answers, reservations
from singularity.gpushare.containers import Containers
from singularity.gpushare.fleet import ASSUMED_S, Fleet
from singularity.gpushare.matching import Waiting, expected, served
from singularity.gpushare.plugin import Gpu, listed, preferred
from singularity.gpushare.quantity import units
from singularity.gpushare.reading import PACKING, SIZES, claim_of, node_of, request_of, sick_of
from singularity.gpushare.reservations import Reservation
from singularity.gpushare.shares import Claim, GpuNode, Packing, Request, choose, score, victims
from singularity.primitives.errors import InvalidSpec
from tests.standin.kubernetes import node as node_object
from tests.standin.kubernetes import pod as pod_object


def claim(uid: str, index: int, held: int, priority: int = 0, node: str = "g") -> Claim:
    return Claim(uid, "default", uid, node, index, held, priority)


def asks(held: int, priority: int = 0, packing: Packing = Packing.BINPACK) -> Request:
    return Request("new", "default", "new", held, priority, packing)


def read(found: dict[str, Any], kind: Any = Pod) -> Any:
    return msgspec.convert(found, kind)


# ---------------------------------------------------------------- quantities
@pytest.mark.parametrize(
    ("text", "count"),
    [("2", 2), ("2k", 2000), ("1500m", 2), ("1Gi", 1 << 30), ("1e3", 1000), ("0", 0), ("+3", 3),
     ("1E", 10**18), ("1E2", 100), (".5", 1), ("100u", 1), ("-1500m", -1)],
)  # fmt: skip
def test_quantities_are_whole_units_rounded_up(text: str, count: int) -> None:
    assert units(text) == count


@pytest.mark.parametrize("text", ["two", "", "1 Gi", "1ki", "1e", "0x10", "1e9999", None])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(InvalidSpec, match="is not a quantity"):
        units(text)


# ---------------------------------------------------------------- objects
def test_init_containers_run_one_by_one_and_sidecars_beside_all_that_follow() -> None:
    def limited(name: str, count: int, **more: str) -> dict[str, Any]:
        return {"name": name, "resources": {"limits": {"aliyun.com/gpu-mem": str(count)}}, **more}

    found = pod_object("p", [3, None, 4])
    assert request_of(read(found)).units == 7
    found["spec"]["initContainers"] = [limited("i", 6)]
    assert request_of(read(found)).units == 7
    found["spec"]["initContainers"] = [limited("s", 2, restartPolicy="Always"), limited("i", 8)]
    assert request_of(read(found)).units == 10, "the second init container, beside the sidecar"
    found["spec"]["initContainers"].pop()
    assert request_of(read(found)).units == 9, "the containers, beside the sidecar"


def test_a_pod_that_asks_for_what_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="must be 0 or more"):
        request_of(read(pod_object("p", [-2])))
    with pytest.raises(InvalidSpec, match="it may be binpack or spread"):
        request_of(read(pod_object("p", [2], annotations={PACKING: "wide"})))


def test_a_node_says_how_large_each_of_its_devices_is_where_they_differ() -> None:
    found = node_object("g", 30, 2)
    assert node_of(read(found, Node)) == GpuNode("g", 30, (15, 15))
    found["metadata"]["annotations"] = {SIZES: "10,20"}
    assert node_of(read(found, Node)) == GpuNode("g", 30, (10, 20))
    found["metadata"]["annotations"] = {SIZES: "10"}
    with pytest.raises(InvalidSpec, match="there are 2 devices"):
        node_of(read(found, Node))
    assert node_of(read(node_object("g", 30), Node)) == GpuNode("g", 30, ())


def test_only_maps_of_sick_devices_are_read_as_such() -> None:
    def told(name: str, gpus: str) -> Any:
        meta = {"name": name, "namespace": "kube-system"}
        return sick_of(read({"metadata": meta, "data": {"gpus": gpus}}, ConfigMap))

    assert told("unhealthy-gpu-n1", "0, 2,x -1") == ("n1", frozenset({0, 2}))
    assert told("gpushare-reserved-n1", "0") is None


def test_a_pod_without_a_device_holds_nothing() -> None:
    assert claim_of(read(pod_object("p", [2], "g"))) is None
    assert claim_of(read(pod_object("p", [2], "g", {"ALIYUN_COM_GPU_MEM_IDX": "-1"}))) is None


# ---------------------------------------------------------------- where
def test_who_asks_to_be_spread_gets_the_emptiest_device() -> None:
    node, held = GpuNode("g", 30, (10, 10, 10)), [claim("a", 0, 4), claim("b", 1, 1)]
    assert choose(node, held, asks(3)) == 0
    assert choose(node, held, asks(3, packing=Packing.SPREAD)) == 2


def test_nodes_are_scored_by_how_full_the_device_would_be() -> None:
    node = GpuNode("g", 10, (10,))
    assert score(node, [], asks(3)) == 3
    assert score(node, [claim("a", 0, 5)], asks(5)) == 10
    assert score(node, [], asks(3, packing=Packing.SPREAD)) == 7
    assert score(node, [], asks(11)) == score(node, [], asks(0)) == 0


# ---------------------------------------------------------------- who leaves
def test_nobody_leaves_for_nothing() -> None:
    node = GpuNode("g", 20, (10, 10))
    held = [claim("a", 0, 6, 5), claim("b", 1, 6, 5)]
    assert victims(node, held, asks(8, priority=5), ["other"]) is None, "equals stay"
    assert victims(node, held, asks(11, priority=9), ["a", "b"]) is None, "no device is so large"
    assert victims(node, held, asks(4, priority=9), ["other"]) == ["other"], "it fits"


def test_as_few_leave_as_do_and_the_least_urgent() -> None:
    node = GpuNode("g", 20, (10, 10))
    held = [claim("a", 0, 5, 3), claim("b", 0, 5, 1), claim("c", 1, 4, 2), claim("d", 1, 6, 2)]
    assert victims(node, held, asks(4, 9), []) == ["b"]
    assert sorted(victims(node, held, asks(10, 9), []) or []) == ["c", "d"]
    assert victims(node, held, asks(9, 9), ["a"]) == ["a", "b"]


def test_a_sick_device_is_cleared_for_nobody() -> None:
    node = GpuNode("g", 20, (10, 10), frozenset({0}))
    held = [claim("a", 0, 10), claim("b", 1, 10, 5)]
    assert victims(node, held, asks(5, 9), []) == ["b"]
    assert victims(node, held, asks(5, 3), []) is None


# ---------------------------------------------------------------- reservations
def test_a_reservation_counts_until_its_pod_is_seen_or_its_time_is_up() -> None:
    kept = [Reservation(claim("a", 0, 4), 100.0), Reservation(claim("b", 1, 2), 130.0)]
    again = reservations.read("g", reservations.written(kept))
    assert [r.claim.uid for r in again] == ["a", "b"]
    assert again[0] == kept[0]
    assert [r.claim.uid for r in reservations.outstanding(again, [claim("a", 0, 4)], 140.0)] == [
        "b"
    ]
    assert [r.claim.uid for r in reservations.outstanding(again, [], 165.0)] == ["b"]


@pytest.mark.parametrize("text", ["", "[]", "[1,2]", "null", '["x",1,2,"d","n"]'])
def test_an_entry_that_nobody_can_read_is_left_out(text: str) -> None:
    assert reservations.read("g", {"uid": text}) == []


# ---------------------------------------------------------------- what is known
def test_what_was_bound_just_now_counts_until_the_server_tells_of_it() -> None:
    fleet, mine = Fleet(), claim("a", 0, 4)
    fleet.see_node("g", GpuNode("g", 10, (10,)))
    fleet.assume(mine, 100.0)
    fleet.see_pod("a", None, bound=False)  # older news
    assert list(fleet.claims("g", 100.0)) == [mine]
    assert not fleet.claims("g", 100.0 + ASSUMED_S)
    fleet.see_pod("a", mine, bound=True)
    assert list(fleet.claims("g", 1e6)) == [mine]
    fleet.lose_pod("a")
    assert not fleet.claims("g", 100.0)


def test_a_pod_that_ended_before_it_was_seen_bound_holds_nothing() -> None:
    fleet = Fleet()
    fleet.assume(claim("a", 0, 4), 100.0)
    fleet.lose_pod("a")
    assert not fleet.claims("g", 101.0)


# ---------------------------------------------------------------- preempt, prioritize
def fleet() -> Fleet:
    found = Fleet()
    found.nodes_are({"g1": GpuNode("g1", 10, (10,)), "g2": GpuNode("g2", 10, (10,)), "cpu": None})
    found.claims_are([claim("a", 0, 8, 1, "g1"), claim("b", 0, 8, 9, "g2")])
    return found


def pod_args(**more: Any) -> dict[str, Any]:
    found = pod_object("p", [5])
    found["spec"]["priority"] = 5
    return {"pod": found, **more}


@pytest.mark.parametrize("kind", ["nodenametovictims", "nodenametometavictims"])
def test_a_scheduler_is_told_who_must_leave_and_where_that_would_help(kind: str) -> None:
    of_g1 = {"Pods": [{"metadata": {"uid": "a"}, "UID": "a"}], "NumPDBViolations": 1}
    body = pod_args(**{kind: {"g1": of_g1, "g2": {"Pods": []}, "cpu": {}, "none": None}})
    found = answers.preempted(body, fleet(), 0.0)["NodeNameToMetaVictims"]
    assert found == {"g1": {"Pods": [{"UID": "a"}], "NumPDBViolations": 1}}


def test_what_must_leave_is_added_where_the_scheduler_does_not_know_it() -> None:
    body = pod_args(nodenametometavictims={"g1": {"Pods": []}})
    found = answers.preempted(body, fleet(), 0.0)["NodeNameToMetaVictims"]
    assert found["g1"]["Pods"] == [{"UID": "a"}]


def test_a_question_without_victims_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="neither NodeNameToVictims"):
        answers.preempted(pod_args(), fleet(), 0.0)


def test_hosts_are_scored_whether_they_share_or_not() -> None:
    body = pod_args(nodenames=["g1", "cpu", "none"])
    body["pod"]["spec"]["containers"][0]["resources"]["limits"]["aliyun.com/gpu-mem"] = "2"
    found = answers.prioritized(answers.candidates(body), fleet(), 0.0)
    assert found == [
        {"Host": "g1", "Score": 10}, {"Host": "cpu", "Score": 0}, {"Host": "none", "Score": 0}
    ]  # fmt: skip


# ---------------------------------------------------------------- whose container it is
def waiting(uid: str, since_ns: int, *sizes: int, over: bool = False) -> Waiting:
    named = tuple((f"c{n}", size) for n, size in enumerate(sizes))
    return Waiting(claim(uid, 0, sum(sizes)), named, since_ns, over)


def test_the_pod_that_was_bound_first_of_those_that_want_so_much_is_meant() -> None:
    pods = [waiting("late", 30, 2, 3), waiting("early", 10, 3), waiting("first", 5, 3, over=True)]
    found = expected(pods, set(), 3)
    assert found is not None and (found[0].claim.uid, found[1]) == ("early", "c0")
    found = expected(pods, {("early", "c0")}, 3)
    assert found is not None and (found[0].claim.uid, found[1]) == ("late", "c1")
    assert not served(pods[0], {("late", "c1")})
    assert served(pods[0], {("late", "c0"), ("late", "c1")})
    assert expected(pods, set(), 4) is None


def test_more_units_than_a_message_holds_are_refused_with_what_to_do() -> None:
    gpus = [Gpu(n, f"GPU-{n}", 81_920, True) for n in range(8)]
    with pytest.raises(InvalidSpec, match="count in GiB"):
        listed(gpus)
    assert len(listed([Gpu(0, "GPU-0", 80, True)]).devices) == 80


def test_units_of_the_chosen_gpu_are_preferred() -> None:
    units = ["0.0", "0.1", "1.0", "1.1", "10.0"]
    assert preferred(1, units, [], 2) == ["1.0", "1.1"]
    assert preferred(1, units, ["0.0"], 3)[0] == "0.0"


def test_a_directory_that_another_container_may_have_stays(tmp_path: Path) -> None:
    """Of two pods of one size that were bound together either may have been given the other's."""
    kept = Containers(tmp_path, limits=False)
    for uid in ("gone", "other"):
        kept.prepare((uid, "c0"), 3, 3)
    now_ns = time.time_ns()
    kept.keep([waiting("live", now_ns, 3)])
    assert kept.given() == {("gone", "c0"), ("other", "c0")}
    kept.keep([waiting("live", now_ns, 2), waiting("much-later", now_ns + 10**12, 3)])
    assert kept.given() == set()
