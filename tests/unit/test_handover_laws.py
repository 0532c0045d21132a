"""Handovers: what a move leaves in memory is used once, is no checkpoint, and is freed at last."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from singularity.agent.answers import Refused, Saved, Started
from singularity.agent.core import AgentState, Forget, react
from singularity.agent.effects import Launch, LetGo, TakeCut
from singularity.api.story import end_of, tell
from singularity.primitives import verbs
from singularity.primitives.holdings import at_risk_s, holdings
from singularity.primitives.messages import Cut, Envelope, Report, Start, Stop
from singularity.primitives.model import (
    Engine,
    Held,
    Job,
    JobId,
    JobSpec,
    JobState,
    Shard,
    ShardImage,
    Unable,
)
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId

A, B, C, D = map(NodeId, "abcd")
GANG = (Shard(A, 2), Shard(B, 2))
RANKS = {A: (0, 1), B: (2, 3)}
AWAY, PARTLY = (Shard(C, 4),), (Shard(A, 2), Shard(C, 2))
NODES = {n: Node(n, RegionId("eu"), ClusterId("c0"), "cpu", 4, epoch=1) for n in (A, B, C, D)}


def said(job: Job, node: NodeId, phase: str, **found: Any) -> Report:
    facts = {"job": job.id, "node": node, "incarnation": job.incarnation, "phase": phase, **found}
    return Report.model_validate(facts)


def settle(job: Job, *reports: Report, now_s: float = 130.0) -> Job:
    for each in reports:
        job = verbs.settle(job, each, now_s).job
    return job


def running(**spec: Any) -> Job:
    """Four ranks on two nodes since 20 s, with a checkpoint of step 10 made at 60 s."""
    found = {"name": "j", "run": ("train",), "ranks": 4, "devices": 4, **spec}
    job = verbs.resume(Job(JobId("j"), JobSpec(**found), 4), GANG, 10.0).job
    job = settle(job, said(job, A, "running"), said(job, B, "running"), now_s=20.0)
    job = verbs.checkpoint(job, 60.0).job
    images = {n: ShardImage(n, RANKS[n], f"d-{n}", 10) for n in RANKS}
    return settle(job, *(said(job, n, "running", cut=1, image=images[n]) for n in RANKS))


def dumped(job: Job, node: NodeId, stay: tuple[int, ...] = ()) -> Report:
    image = ShardImage(node, RANKS[node], "", 30, held=Held(f"t-{node}", "m", "/d", stay))
    return said(job, node, "dumped", cut=job.cut, image=image, step=30)


def handed(target: tuple[Shard, ...] = AWAY, **spec: Any) -> Job:
    """Starting on `target`, from what was handed over at 100 s."""
    step = verbs.migrate(running(**spec), target, 100.0)
    cuts = [c for c in step.commands if isinstance(c, Cut)]
    return settle(step.job, *(dumped(step.job, c.node, c.stay) for c in cuts))


def origins(step: verbs.Step) -> dict[NodeId, int | None]:
    found = [c for c in step.commands if isinstance(c, Start)]
    return {c.node: c.origin.step if c.origin else None for c in found}


def test_a_return_from_memory_says_nothing_of_what_one_from_the_store_costs() -> None:
    job = handed()
    took = {"fetch": 0.1, "restore": 0.4}
    job = settle(job, *(said(job, n, "running", seconds=took) for n in (C,)))
    assert job.state is JobState.RUNNING and job.restore_s is None
    stored = settle(verbs.failover(running(), frozenset({A}), 90.0, "lost").job)
    stored = settle(stored, said(stored, B, "stopped"))
    stored = verbs.resume(stored, AWAY, 130.0).job
    assert settle(stored, said(stored, C, "running", seconds=took)).restore_s == 0.5


# -- what is asked -------------------------------------------------------------------------------


def test_a_move_asks_for_a_handover_and_says_who_stays() -> None:
    told = {c.node: c for c in verbs.migrate(running(), PARTLY, 100.0).commands}
    cuts = {n: c for n, c in told.items() if isinstance(c, Cut)}
    assert {(n, c.handover, c.keep_running) for n, c in cuts.items()} == {
        (A, True, False),
        (B, True, False),
    }
    assert (cuts[A].stay, cuts[B].stay) == ((0, 1), ())


@pytest.mark.parametrize("engines", [(Engine.COOPERATIVE,), (Engine.TRANSPARENT,)])
def test_a_suspend_and_what_a_program_saves_itself_go_into_the_store(
    engines: tuple[Engine, ...],
) -> None:
    job = running(engines=engines)
    step = verbs.suspend(job, 100.0)
    if engines == (Engine.COOPERATIVE,):
        step = verbs.migrate(job, AWAY, 100.0)
    assert not any(c.handover for c in step.commands if isinstance(c, Cut))


def test_a_cut_that_falls_to_the_programs_own_engine_is_no_handover_any_more() -> None:
    job = verbs.migrate(running(engines=tuple(Engine)[:2]), AWAY, 100.0).job
    refused = said(job, A, "running", cut=job.cut, unable=Unable.JOB, reason="a socket")
    again = verbs.settle(job, refused, 101.0)
    found = [(c.engine, c.handover) for c in again.commands if isinstance(c, Cut)]
    assert found == [(Engine.COOPERATIVE, False)] * 2


# -- what becomes of it --------------------------------------------------------------------------


def test_the_next_life_begins_from_it_and_it_is_no_checkpoint() -> None:
    job = verbs.migrate(running(), AWAY, 100.0).job
    half = settle(job, dumped(job, A))
    step = verbs.settle(half, dumped(job, B), 105.0)
    assert step.job.state is JobState.STARTING and origins(step) == {C: 30}
    assert [c.step for c in step.job.checkpoints] == [10]
    assert at_risk_s(step.job, 999.0) == 40.0, "what was not saved when it was cut"
    story = [line.event for line in tell(half, step.job, "", NODES, 105.0)]
    ending = end_of(half, step.job, NODES, 105.0)
    assert story == ["handover", "placed"]
    assert ending is not None and (ending.end, ending.step, ending.lost_s) == ("moved", 30, 0.0)


def test_once_all_run_a_failure_goes_back_to_the_store_and_loses_what_was_carried() -> None:
    before = settle(handed(), said(handed(), C, "running", step=30), now_s=110.0)
    assert before.state is JobState.RUNNING and before.handover is None
    assert at_risk_s(before, 115.0) == 45.0
    after = verbs.failover(before, frozenset({C}), 115.0, "node c is lost").job
    ending = end_of(before, after, NODES, 115.0)
    assert ending is not None and (ending.step, ending.lost_s) == (10, 45.0)
    assert origins(verbs.resume(after, GANG, 130.0)) == {A: 10, B: 10}
    assert at_risk_s(verbs.resume(after, GANG, 130.0).job, 140.0) == 0.0


def test_a_checkpoint_of_the_next_life_saves_what_was_carried() -> None:
    job = settle(handed(), said(handed(), C, "running", step=30), now_s=110.0)
    job = verbs.checkpoint(job, 120.0).job
    image = ShardImage(C, (0, 1, 2, 3), "d", 40)
    job = settle(job, said(job, C, "running", cut=job.cut, image=image))
    assert (job.carried_s, at_risk_s(job, 125.0)) == (0.0, 5.0)


@pytest.mark.parametrize("how", ["refused", "unfit", "lost", "overdue"])
def test_a_life_that_cannot_begin_begins_again_elsewhere_from_the_same(how: str) -> None:
    job = handed()
    if how == "overdue":
        after = settle(verbs.overdue(job, 120.0, "no start").job, said(job, C, "stopped"))
    elif how == "lost":
        after = verbs.failover(job, frozenset({C}), 120.0, "node c is lost").job
    else:
        after = settle(job, said(job, C, "refused", unfit=how == "unfit", reason="no"))
    assert after.state is JobState.SUSPENDED and after.handover == job.handover
    ending = end_of(job, after, NODES, 120.0)
    assert ending is not None and ending.lost_s == 0.0
    assert origins(verbs.resume(after, (Shard(D, 4),), 130.0)) == {D: 30}


def test_one_that_is_gone_from_memory_is_dropped_once_and_no_checkpoint_with_it() -> None:
    job = handed((Shard(C, 2), Shard(D, 2)))
    corrupt = {"corrupt": True, "reason": "gone"}
    after = settle(job, *(said(job, n, "refused", **corrupt) for n in (C, D)))
    assert after.state is JobState.SUSPENDED and after.handover is None
    assert [c.step for c in after.checkpoints] == [10]
    ending = end_of(job, settle(job, said(job, C, "refused", **corrupt)), NODES, 120.0)
    assert ending is not None and (ending.step, ending.lost_s) == (10, 40.0)
    assert origins(verbs.resume(after, GANG, 130.0)) == {A: 10, B: 10}


def test_a_target_lost_in_the_cut_leaves_it_for_another_place() -> None:
    job = verbs.migrate(running(), AWAY, 100.0).job
    job = verbs.failover(job, frozenset({C}), 101.0, "node c is lost").job
    job = settle(job, dumped(job, A), dumped(job, B))
    assert job.state is JobState.SUSPENDED and not holdings(job)
    assert origins(verbs.resume(job, (Shard(D, 4),), 130.0)) == {D: 30}


def test_a_target_lost_in_the_cut_sends_those_home_whose_peers_never_left() -> None:
    job = verbs.migrate(running(), PARTLY, 100.0).job
    job = verbs.failover(job, frozenset({C}), 101.0, "node c is lost").job
    half = settle(job, dumped(job, A, (0, 1)))
    step = verbs.settle(half, dumped(job, B), 105.0)
    assert step.job.state is JobState.STARTING and origins(step) == {A: 30, B: 30}
    assert dict(holdings(step.job)) == {A: 2, B: 2}


def test_ranks_that_were_woken_cannot_be_begun_from_again() -> None:
    job = handed(PARTLY)
    after = settle(job, said(job, C, "refused", reason="no memory"), said(job, A, "stopped"))
    assert after.state is JobState.SUSPENDED and after.handover is None
    assert origins(verbs.resume(after, GANG, 130.0)) == {A: 10, B: 10}


def test_who_says_late_that_it_is_gone_takes_no_checkpoint_with_it() -> None:
    job = handed((Shard(A, 2), Shard(C, 1), Shard(D, 1)))
    job = settle(job, said(job, C, "refused", reason="no memory"))
    assert job.handover is None, "ranks on a never left"
    late = said(job, D, "refused", corrupt=True, reason="gone")
    after = settle(job, late, said(job, A, "stopped"))
    assert after.state is JobState.SUSPENDED
    assert origins(verbs.resume(after, GANG, 130.0)) == {A: 10, B: 10}


@pytest.mark.parametrize("where", [JobState.STARTING, JobState.SUSPENDED])
def test_a_cancelled_job_needs_none(where: JobState) -> None:
    job = handed()
    if where is JobState.SUSPENDED:
        job = settle(job, said(job, C, "refused", reason="no"))
    assert job.state is where
    job = settle(verbs.cancel(job, 120.0).job, said(job, C, "stopped"))
    assert job.state is JobState.CANCELLED and job.handover is None


def test_reports_in_any_order_and_twice_come_to_the_same() -> None:
    job = verbs.migrate(running(), AWAY, 100.0).job
    reports = [dumped(job, A), dumped(job, B), dumped(job, A), dumped(job, B)]
    found = {repr(replace(settle(job, *p), version=0)) for p in permutations(reports)}
    assert len(found) == 1


def test_nodes_keep_it_until_the_next_life_runs_or_never_will() -> None:
    job = handed((Shard(C, 2), Shard(A, 2)))  # A gives two ranks away and gets two others
    for node in (A, B):
        assert not verbs.settled(job, dumped(replace(job, incarnation=1), node))
    refused = settle(job, said(job, A, "refused", reason="no"), said(job, C, "stopped"))
    assert not verbs.settled(refused, said(job, A, "refused")), "it keeps a part of it still"
    runs = settle(job, said(job, A, "running", step=30), said(job, C, "running", step=30))
    old = replace(job, incarnation=1)
    assert runs.state is JobState.RUNNING and verbs.settled(runs, dumped(old, B))


# -- the agent -----------------------------------------------------------------------------------


def start(incarnation: int, image: ShardImage | None = None) -> Start:
    found: dict[str, Any] = {"job": "j", "node": A, "incarnation": incarnation, "gang": (A,)}
    found |= {"world": 2, "ranks": (0, 1), "slots": (0, 1), "devices": 2, "run": ("train",)}
    if image is not None:
        found["origin"] = {"incarnation": 1, "cut": 1, "step": 30, "shards": (image,)}
    return Start.model_validate(found)


def agent(*events: Any) -> tuple[AgentState, list[Any]]:
    """The state after `events`, commands among them being letters, and all effects."""
    state, effects = AgentState(A, epoch=1), list[Any]()
    for event in events:
        letter = event
        if isinstance(event, Start | Cut | Stop):
            letter = Envelope(node=A, epoch=1, seq=state.seq + 1, command=event)
        state, more, _ = react(state, letter)
        effects += more
    return state, effects


IMAGE = ShardImage(A, (0, 1), "", 30, held=Held("t", "m", "/d"))
CUT = Cut(job=JobId("j"), node=A, incarnation=1, cut=1, keep_running=False, handover=True)
GONE = (start(1), Started(JobId("j"), 1), CUT, Saved(JobId("j"), 1, 1, True, IMAGE))
LET_GO = LetGo(JobId("j"), 1)


@pytest.mark.parametrize(
    ("later", "freed"),
    [
        ((), False),
        ((Forget(((JobId("j"), 1),)),), True),
        ((start(2, IMAGE),), False),
        ((start(2, IMAGE), Started(JobId("j"), 2)), True),
        ((start(2, IMAGE), Refused(JobId("j"), 2, "no")), False),
        ((start(2, IMAGE), Refused(JobId("j"), 2, "no"), Forget(((JobId("j"), 2),))), True),
        ((start(2),), True),
        ((start(2, replace(IMAGE, node=B)),), True),
    ],
)
def test_an_agent_frees_what_it_keeps_when_nobody_can_need_it(
    later: tuple[Any, ...], freed: bool
) -> None:
    _, effects = agent(*GONE, *later)
    assert any(isinstance(e, LetGo) and e.incarnation >= 1 for e in effects) is freed
    kinds = [type(e) for e in effects]
    assert kinds[:2] == [Launch, TakeCut]
