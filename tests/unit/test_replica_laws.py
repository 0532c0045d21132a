"""What an agent says of replicas, and the port it gives them."""

from __future__ import annotations

from pathlib import Path

from singularity.agent import health, ports
from singularity.agent.answers import Answers, CutFailed, Hung, Started
from singularity.agent.core import AgentState, Boot, react
from singularity.agent.health import Health, Patience
from singularity.primitives.messages import Envelope, Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

NODE, JOB = NodeId("n"), JobId("j")
PATIENCE = Patience(ready_s=100.0, silent_s=10.0)


def running() -> AgentState:
    start = Start(
        job=JOB,
        node=NODE,
        incarnation=1,
        gang=(NODE,),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=("x",),
    )
    state = AgentState(NODE, epoch=1)
    for event in (Envelope(node=NODE, epoch=1, seq=1, command=start), Started(JOB, 1)):
        state, _, _ = react(state, event)
    return state


def test_where_it_answers_is_said_in_every_report_from_then_on() -> None:
    state, _, (report,) = react(running(), Answers(JOB, 1, "h:1"))
    assert (report.phase, report.endpoint) == ("running", "h:1")
    state, _, (report,) = react(state, CutFailed(JOB, 1, 1, "no"))
    assert report.endpoint == "h:1"
    state, _, _ = react(state, Boot(frozenset({(JOB, 1)})))
    state, _, (report,) = react(state, Hung(JOB, 1, "silent"))
    assert (report.phase, report.endpoint) == ("hung", "")


def test_an_answer_of_an_earlier_life_is_not_this_one_s() -> None:
    state = running()
    assert react(state, Answers(JOB, 2, "h:1")) == (state, (), ())


def test_patience_is_longer_before_the_first_answer() -> None:
    new = Health(0.0)
    assert not health.hung(new, PATIENCE, "/", 100.0)
    assert "first 100 s" in health.hung(new, PATIENCE, "/", 100.1)
    ready = health.answered(new, 50.0)
    assert not health.hung(ready, PATIENCE, "/", 60.0)
    assert health.hung(ready, PATIENCE, "/", 60.1)
    assert not health.hung(health.excused(ready, 60.0), PATIENCE, "/", 70.0)


def test_the_port_takes_the_place_of_its_name() -> None:
    words = ("serve", "--port=$PORT", "$PORT", "${PORT}", "$PORTS", "a:$PORT/x")
    assert ports.filled(words, 7) == ("serve", "--port=7", "7", "7", "$PORTS", "a:7/x")


def test_a_port_is_kept_beside_its_replica(tmp_path: Path) -> None:
    port = ports.choose(tmp_path)
    assert ports.chosen(tmp_path) == port and 10000 <= port < 30000
