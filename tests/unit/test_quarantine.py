"""Nodes that fail again and again take nothing new for a while; a job that does is to blame."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import Conflict
from singularity.primitives.faults import fault_of, noted
from singularity.primitives.health import Fault, FaultKind, Quarantine
from singularity.primitives.messages import Report
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.scheduler.orders import Isolate, Order, Readmit
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.quarantine import allowed, judge
from tests.unit.fleets import POLICY, Planet

BAD = NodeId("us-0")


def fail(planet: Planet, *jobs: str, node: NodeId = BAD, kind: FaultKind = FaultKind.START) -> None:
    """One fault with each of `jobs`."""
    for job in jobs:
        fault = Fault(planet.now_s, kind, job, "it did not start")
        planet.ledger._nodes[node] = noted(planet.ledger._nodes[node], fault)


def judged(planet: Planet, policy: Policy = POLICY) -> tuple[Order, ...]:
    return judge(planet.ledger.snapshot(planet.now_s), policy)


def carried_out(planet: Planet, after_s: float = 1.0) -> Plan:
    planet.now_s += after_s
    plan = planet.plan()
    planet.ledger.carry_out(plan.orders, planet.now_s)
    return plan


def kept_away(planet: Planet) -> list[NodeId]:
    return [n.id for n in planet.ledger.nodes().values() if n.health.quarantine]


def test_a_node_that_fails_several_jobs_takes_nothing_new_and_says_why() -> None:
    planet = Planet(nodes=4)
    fail(planet, "a", "b")
    assert judged(planet) == ()
    fail(planet, "c")
    (order,) = carried_out(planet).orders
    assert isinstance(order, Isolate) and order.node == BAD
    assert order.quarantine.reason == "within 60 min: failed starts × 3"
    wide = planet.submit("wide", 16, ranks=16, regions=("us",))
    plan = planet.tick()
    told = plan.pending[wide][0].detail
    assert "1 nodes are lost, cordoned, draining or quarantined" in told
    assert "us-0 is quarantined: within 60 min: failed starts × 3" in told


def test_one_job_counts_once_however_often_it_fails() -> None:
    planet = Planet(nodes=4)
    fail(planet, *["broken"] * 10)
    assert judged(planet) == ()


def test_a_job_that_fails_on_several_nodes_is_itself_to_blame() -> None:
    planet = Planet(nodes=4)
    for node in ("us-0", "us-1", "us-2"):
        fail(planet, "a", "b", "c", "d", node=NodeId(node))
    assert judged(planet) == ()


def test_a_node_that_falls_silent_again_and_again_is_kept_out() -> None:
    planet = Planet(nodes=4)
    for _ in range(3):
        planet.now_s += 30.0
        planet.ledger.lose({BAD: planet.now_s}, planet.now_s)
        planet.join(BAD, "us")
    assert [type(o) for o in carried_out(planet).orders] == [Isolate]
    assert not planet.ledger.nodes()[BAD].ready


def test_coming_back_empty_handed_is_a_fault_only_where_ranks_were() -> None:
    planet = Planet(nodes=1, regions=("us",))
    for _ in range(5):
        planet.join(BAD, "us")  # its answer was lost: it asks again
    node = planet.ledger.nodes()[BAD]
    assert (node.epoch, node.health.faults) == (6, ())
    job = planet.submit("job")
    planet.run(job)
    planet.join(BAD, "us")
    (fault,) = planet.ledger.nodes()[BAD].health.faults
    assert fault.kind is FaultKind.LOST and "came back without its ranks" in fault.detail


def test_old_faults_count_no_more() -> None:
    planet = Planet(nodes=4)
    fail(planet, "a", "b")
    planet.now_s += POLICY.fault_window_s + 1
    fail(planet, "c")
    assert judged(planet) == ()


def test_a_probation_doubles_and_is_forgotten_after_a_long_time_without() -> None:
    planet, lengths = Planet(nodes=4), []
    for _ in range(3):
        fail(planet, "a", "b", "c")
        (order,) = carried_out(planet).orders
        assert isinstance(order, Isolate) and order.quarantine.until_s is not None
        lengths.append(order.quarantine.until_s - planet.now_s)
        assert carried_out(planet, lengths[-1] - 1.0).orders == ()
        assert [type(o) for o in carried_out(planet, 2.0).orders] == [Readmit]
        assert planet.ledger.nodes()[BAD].ready
        assert carried_out(planet).orders == (), "what was is forgiven"
    first_s = POLICY.quarantine_first_s
    assert lengths == [first_s, 2 * first_s, 4 * first_s]
    planet.now_s += POLICY.quarantine_most_s + 1
    fail(planet, "a", "b", "c")
    (order,) = carried_out(planet).orders
    assert isinstance(order, Isolate) and order.quarantine.until_s == planet.now_s + first_s


def test_an_unhealthy_device_keeps_work_away_until_it_is_well() -> None:
    planet = Planet(nodes=4)
    planet.ledger.examine(BAD, ("3: Xid 79",))
    (order,) = carried_out(planet).orders
    assert isinstance(order, Isolate)
    assert order.quarantine.reason == "unhealthy devices: 3: Xid 79"
    assert carried_out(planet, POLICY.quarantine_first_s + 1).orders == (), "it is not well yet"
    planet.ledger.examine(BAD, ())
    assert [type(o) for o in carried_out(planet).orders] == [Readmit]


def test_what_runs_there_stays_unless_the_policy_says_otherwise() -> None:
    planet = Planet(nodes=2)
    job = planet.submit("job", 4)
    planet.run(job)
    node = planet.job(job).placement[0].node
    fail(planet, "a", "b", "c", node=node)
    assert carried_out(planet).actions == ()
    assert planet.tick().actions == ()
    there = planet.ledger.nodes()[node].health.quarantine
    assert there is not None
    planet.ledger.quarantine(node, None, planet.now_s)
    planet.ledger.quarantine(node, replace(there, drains=True), planet.now_s)
    (action,) = planet.tick().actions
    assert (action.job, str(action.verb)) == (job, "migrate")


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), max_size=60),
)
@settings(deadline=None)
def test_never_more_of_a_cluster_than_its_share(nodes: int, faults: list[tuple[int, int]]) -> None:
    planet = Planet(nodes=nodes, regions=("us",))
    for node, job in faults:
        fail(planet, f"job-{node}-{job}", node=NodeId(f"us-{node % nodes}"))
        carried_out(planet)
        (most,) = allowed(planet.ledger.snapshot(planet.now_s), POLICY)
        assert len(kept_away(planet)) <= most
    (most,) = allowed(planet.ledger.snapshot(planet.now_s), POLICY)
    assert most == [0, 1, 1, 1, 1, 1, 1, 2, 2][nodes - 1]


def test_an_operator_may_go_beyond_and_release() -> None:
    planet = Planet(nodes=2)
    for node in ("us-0", "us-1"):
        planet.ledger.quarantine(NodeId(node), Quarantine(0.0, None, "a look"), planet.now_s)
    assert carried_out(planet, 1e6).orders == (), "only an operator ends what has no end"
    with pytest.raises(Conflict, match="quarantined already: a look; release it first"):
        planet.ledger.quarantine(BAD, Quarantine(0.0, None, "again"), planet.now_s)
    planet.ledger.quarantine(BAD, None, planet.now_s)
    with pytest.raises(Conflict, match="is not quarantined"):
        planet.ledger.quarantine(BAD, None, planet.now_s)


def test_orders_that_are_out_of_date_change_nothing() -> None:
    planet = Planet(nodes=4)
    found = Quarantine(planet.now_s, None, "a look")
    planet.ledger.quarantine(BAD, found, planet.now_s)
    late = (Isolate(BAD, replace(found, reason="faults")), Readmit(BAD, 1.0, "over"))
    planet.ledger.carry_out(late, planet.now_s)
    assert planet.ledger.nodes()[BAD].health.quarantine == found


# -- what is a fault -------------------------------------------------------------------------------


def told(planet: Planet, job: JobId, phase: str, **facts: object) -> FaultKind | None:
    """The fault that one report of the job's first node is, and the ledger notes it."""
    before = planet.job(job)
    node = before.placement[0].node
    report = {"job": job, "node": node, "incarnation": before.incarnation, "phase": phase}
    planet.ledger.record(Report.model_validate({**report, **facts}), planet.now_s)
    noted_ones = planet.ledger.nodes()[node].health.faults
    found = fault_of(before, planet.job(job), Report.model_validate({**report, **facts}), 0.0)
    assert (found is not None) == bool(noted_ones)
    return found.kind if found else None


@pytest.mark.parametrize(
    ("phase", "facts", "kind"),
    [
        ("refused", {"reason": "no namespaces"}, FaultKind.START),
        ("refused", {"reason": "no AVX-512", "unfit": True}, None),
        ("refused", {"reason": "a chunk is damaged", "corrupt": True}, None),
        ("lost", {}, FaultKind.RANKS),
        ("running", {}, None),
        ("exited", {"exit_code": 1}, None),
    ],
)
def test_what_is_told_of_a_start(phase: str, facts: dict[str, object], kind: FaultKind) -> None:
    planet = Planet()
    job = planet.submit("job")
    planet.tick()
    assert told(planet, job, phase, **facts) == kind


def test_a_dump_that_fails_is_a_fault_unless_it_never_could_work() -> None:
    for unable, kind in ((None, FaultKind.DUMP), ("job", None)):
        planet = Planet()
        job = planet.submit("job")
        planet.run(job)
        planet.ledger.request_checkpoint(job, planet.now_s)
        planet.tick()
        assert told(planet, job, "running", cut=1, reason="disk full", unable=unable) == kind


def test_a_report_that_is_repeated_is_one_fault() -> None:
    planet = Planet()
    job = planet.submit("job")
    planet.tick()
    node = planet.job(job).placement[0].node
    for _ in range(5):
        planet.say(job, node, "refused", reason="no namespaces")
    assert len(planet.ledger.nodes()[node].health.faults) == 1
