"""Replicas on a node, on real processes: when they answer, when they hang, how they end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from nodes import JOB, LocalNode, planet
from sandboxes import until

from singularity.agent.scratch import Memory
from singularity.agent.warm import Warm
from singularity.primitives.messages import Report, Start, Stop
from singularity.primitives.nodes import NodeId
from singularity.primitives.serving import ServiceId, Serving

SCRIPT = Path(__file__).parent / "jobs" / "replica.py"
SILENT_S = 1.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    with planet(tmp_path, "sgs") as made:
        made.fit = lambda _, tools: replace(tools, silent_s=SILENT_S, ready_s=20.0)
        yield made.node("a")


def start(*more: str, grace_s: float = 30.0, incarnation: int = 1) -> Start:
    serving = Serving(ServiceId("s"), 1, health="/health", grace_s=grace_s)
    return Start(
        job=JOB,
        node=NodeId("a"),
        incarnation=incarnation,
        gang=(NodeId("a"),),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=(sys.executable, str(SCRIPT), "$PORT", "a", *more),
        serving=serving,
    )


def stop(*, stacks: bool = False, grace_s: float | None = None, warm: bool = False) -> Stop:
    known = {"job": JOB, "node": NodeId("a"), "incarnation": 1}
    return Stop.model_validate({**known, "stacks": stacks, "grace_s": grace_s, "warm": warm})


def client(report: Report) -> httpx.Client:
    return httpx.Client(base_url=f"http://{report.endpoint}", timeout=20)


def serving(node: LocalNode, *more: str, grace_s: float = 30.0) -> Report:
    """The report that says where it answers."""
    node.send(start(*more, grace_s=grace_s))
    first = node.report()
    assert (first.phase, first.endpoint) == ("running", "")
    return node.report()


def output(node: LocalNode) -> str:
    return node.layout.log(JOB, 0).read_text()


def test_it_is_told_where_a_replica_answers_once_it_does(node: LocalNode) -> None:
    node.send(start("slow to load"))
    assert node.report().endpoint == ""
    until(lambda: node.layout.log(JOB, 0).exists() and output(node), "it to listen")
    port = int(output(node))
    assert node.reports.empty(), "it listens, and is not ready"
    httpx.get(f"http://127.0.0.1:{port}/open?gate=ready")
    report = node.report()
    assert (report.phase, report.endpoint) == ("running", f"127.0.0.1:{port}")
    assert httpx.get(f"http://{report.endpoint}/x").status_code == 200


def test_told_to_stop_it_ends_what_it_has(node: LocalNode) -> None:
    report = serving(node)
    with client(report) as http, client(report) as other:
        answers: list[httpx.Response] = []
        asked = threading.Thread(target=lambda: answers.append(http.get("/hold?gate=g")))
        asked.start()
        until(lambda: other.get("/state").json()["held"] == 1, "it to hold the request")
        node.send(stop())
        pool = node.executor._hands[JOB]
        assert not pool.ended
        other.get("/open?gate=g")  # it still answers
        asked.join()
    assert answers[0].status_code == 200
    assert node.report().phase == "stopped"
    assert "ended well" in output(node)


@pytest.mark.parametrize(("grace_s", "told_s"), [(0.5, None), (3600.0, 0.5)])
def test_one_that_does_not_end_is_killed_when_its_grace_is_over(
    node: LocalNode, grace_s: float, told_s: float | None
) -> None:
    """Its service's, or what it is told where others wait for its devices."""
    report = serving(node, grace_s=grace_s)
    with client(report) as http:

        def ask() -> None:
            with pytest.raises(httpx.HTTPError):
                http.get("/hold")

        asked = threading.Thread(target=ask)
        asked.start()
        until(
            lambda: httpx.get(f"http://{report.endpoint}/state").json()["held"] == 1,
            "it to hold the request",
        )
        node.send(stop(grace_s=told_s))
        assert node.report().phase == "stopped"
        asked.join()
    assert "ended well" not in output(node)


def test_one_that_answers_no_more_is_reported_and_not_waited_for(node: LocalNode) -> None:
    report = serving(node, grace_s=3600.0)
    httpx.get(f"http://{report.endpoint}/hang")
    hung = node.report()
    assert (hung.phase, hung.endpoint) == ("hung", "")
    assert hung.reason == "GET /health has had no good answer for more than 1 s"
    assert (node.layout.stacks(start()) / "rank-0.txt").exists()
    node.send(stop(stacks=True))
    assert node.report().phase == "stopped"


def test_one_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    with planet(tmp_path, "sgs") as made:
        made.fit = lambda _, tools: replace(tools, ready_s=1.0)
        node = made.node("a")
        hung = serving(node, "never")
    assert hung.phase == "hung" and "does the program listen" in hung.reason


def test_a_replica_outlives_its_agent(node: LocalNode) -> None:
    before = serving(node)
    node.restart()
    after = node.report()
    assert after.endpoint == before.endpoint
    assert httpx.get(f"http://{after.endpoint}/x").status_code == 200
    node.send(stop())
    assert node.report().phase == "stopped"


def test_time_that_it_was_frozen_is_not_its_own(node: LocalNode) -> None:
    report = serving(node)
    node.executor.freeze()
    prober = node.executor._hands[JOB]._prober  # type: ignore[attr-defined]
    heard_s = prober._health.heard_s
    until(lambda: prober._health.heard_s > heard_s + 2 * SILENT_S, "twice its patience to pass")
    node.executor.thaw()
    assert httpx.get(f"http://{report.endpoint}/x").status_code == 200
    assert node.reports.empty()


# -- at rest, warm -------------------------------------------------------------------------------


def rested(node: LocalNode) -> tuple[Report, int]:
    """Where it answered, and its process, which waits now."""
    before = serving(node)
    pid = node.executor._hands[JOB]._ranks[0].pid
    assert pid is not None
    node.send(stop(warm=True))
    said = node.report()
    assert (said.phase, said.warm) == ("stopped", True)
    return before, pid


def state(pid: int) -> str:
    """T while it is stopped; "" when it is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_the_next_life_finds_what_waits_as_it_was(node: LocalNode) -> None:
    before, pid = rested(node)
    until(lambda: state(pid) == "T", "it to be stopped")
    node.send(start(incarnation=2))
    assert (running := node.report()).phase == "running" and "wake" in running.seconds
    after = node.report()
    assert (after.endpoint, after.warm, after.incarnation) == (before.endpoint, False, 2)
    assert httpx.get(f"http://{after.endpoint}/x").status_code == 200
    assert state(pid) not in ("T", "")
    node.send(stop().model_copy(update={"incarnation": 2}))
    assert node.report().phase == "stopped" and not state(pid)
    assert "ended well" in output(node)


def test_what_nobody_needs_any_more_is_told_to_end(node: LocalNode) -> None:
    _, pid = rested(node)
    node.forget(JOB, 1)
    until(lambda: not state(pid), "it to be gone")
    assert "ended well" in output(node)


def test_another_program_begins_afresh(node: LocalNode) -> None:
    _, pid = rested(node)
    node.send(start("slow to load", incarnation=2))
    until(lambda: "launch" in node.report().seconds, "it to begin")
    assert not state(pid)


def test_nothing_waits_where_memory_is_scarce(tmp_path: Path) -> None:
    full = False

    def look() -> Memory:
        return Memory(1 if full else 1000, 1000)

    with planet(tmp_path, "sgs") as made:
        made.fit = lambda _, tools: replace(tools, warm=Warm(tools.layout, look))
        node = made.node("a")
        _, pid = rested(node)
        full = True
        node.executor.tend()
        said = node.report()
        assert (said.phase, said.warm) == ("stopped", False)
        until(lambda: not state(pid), "it to be gone")
        node.send(start(incarnation=2))
        assert [node.report().phase for _ in range(2)] == ["running", "running"]
        node.send(stop(warm=True).model_copy(update={"incarnation": 2}))
        assert not node.report().warm


def test_what_waits_ends_with_its_agent(node: LocalNode) -> None:
    _, pid = rested(node)
    node.restart()
    until(lambda: not state(pid), "it to be gone")
    assert not node.state.last[JOB].warm
    node.send(start(incarnation=2))
    assert [node.report().phase for _ in range(2)] == ["running", "running"]


def test_what_died_while_it_waited_is_told(node: LocalNode) -> None:
    _, pid = rested(node)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not state(pid), "it to be gone")
    until(lambda: node.executor.tend() or not node.state.last[JOB].warm, "that to be told")
