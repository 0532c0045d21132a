"""Laws of the checkpoint interval."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.model import Job, JobId, JobSpec
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId
from singularity.scheduler.interval import best_s, cadence, mtbf_s, rate_of
from singularity.scheduler.policy import Policy

POLICY = Policy()
FREE = replace(POLICY, checkpoint_least_s=0.0, checkpoint_most_s=math.inf)
NOW_S = 1e9
seconds = st.floats(1e-3, 1e9)
nodes = st.builds(
    Node,
    id=st.just(NodeId("n")),
    region=st.just(RegionId("r")),
    cluster=st.just(ClusterId("c")),
    device=st.just("cpu"),
    devices=st.just(8),
    known_s=st.floats(0.0, NOW_S),
    failures=st.integers(0, 1000),
)
gangs = st.lists(nodes, min_size=1, max_size=30)


def job(every_s: float | None = None, pause_s: float | None = None) -> Job:
    spec = JobSpec("job", ("x",), checkpoint_every_s=every_s)
    return Job(JobId("job"), spec, 1, pause_s=pause_s)


def auto_s(gang: list[Node], pause_s: float | None = 1.0, policy: Policy = POLICY) -> float:
    found = cadence(job(None, pause_s), gang, NOW_S, policy).every_s
    assert found is not None
    return found


@given(a=seconds, b=seconds, mtbf=seconds)
def test_what_costs_more_is_done_less_often(a: float, b: float, mtbf: float) -> None:
    assert best_s(min(a, b), mtbf, POLICY) <= best_s(max(a, b), mtbf, POLICY)


@given(a=seconds, b=seconds, cost=seconds)
def test_what_fails_less_often_is_cut_less_often(a: float, b: float, cost: float) -> None:
    assert best_s(cost, min(a, b), POLICY) <= best_s(cost, max(a, b), POLICY)


@given(cost=seconds, mtbf=seconds)
def test_without_bounds_no_other_interval_loses_less(cost: float, mtbf: float) -> None:
    def lost(every_s: float) -> float:
        """Of each second: to cuts, and to work done again."""
        return cost / every_s + every_s / (2.0 * mtbf)

    best = best_s(cost, mtbf, FREE)
    assert all(lost(best) <= lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


@given(gang=gangs, more=nodes)
def test_every_further_node_makes_it_shorter(gang: list[Node], more: Node) -> None:
    assert mtbf_s([*gang, more], NOW_S, POLICY) < mtbf_s(gang, NOW_S, POLICY)
    assert auto_s([*gang, more], policy=FREE) < auto_s(gang, policy=FREE)


@given(node=nodes, more=st.integers(1, 5))
def test_a_node_that_failed_more_is_trusted_less(node: Node, more: int) -> None:
    worse = replace(node, failures=node.failures + more)
    assert rate_of(worse, NOW_S, POLICY) > rate_of(node, NOW_S, POLICY)


@given(node=nodes, longer_s=st.floats(1e6, 1e8))
def test_a_node_that_ran_longer_without_failing_is_trusted_more(
    node: Node, longer_s: float
) -> None:
    assert rate_of(node, NOW_S + longer_s, POLICY) < rate_of(node, NOW_S, POLICY)


@given(gang=gangs, pause=st.none() | seconds)
def test_it_stays_within_the_policy(gang: list[Node], pause: float | None) -> None:
    assert POLICY.checkpoint_least_s <= auto_s(gang, pause) <= POLICY.checkpoint_most_s


@given(gang=gangs, every=st.floats(0.1, 1e6), pause=st.none() | seconds)
def test_the_owners_word_wins(gang: list[Node], every: float, pause: float | None) -> None:
    found = cadence(job(every, pause), gang, NOW_S, POLICY)
    assert (found.every_s, found.origin) == (every, "its owner said so")
    assert cadence(job(0.0, pause), gang, NOW_S, POLICY).every_s is None
