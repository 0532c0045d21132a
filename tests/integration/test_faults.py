"""The fault table: what befalls a job in every phase of a cut and of a move, and what comes of it.

One training meets all of it in turn, on a real planet whose processes are killed, whose ranks are
stopped, and whose disk is filled; a second one meets what a node alone decides. Each ends with the
numbers of a run that nothing befell, and goes back nowhere but to the last cut that counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sandboxes import until

from singularity.agent.interposer.page import Page
from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.sandbox import Sandbox
from singularity.cli import embedded
from singularity.cli.fleet import Cluster, Fleet, Region
from tests.integration.test_chaos import (
    SCRIPT,
    Story,
    elsewhere,
    lines,
    reference_of,
    results,
    runs,
)

RANKS = 2
PAUSE_S = 0.02
CUT_DEADLINE_S = 12.0  # long for an ordinary cut here

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)
Record = Callable[[str, object], None]


# -- on a planet -----------------------------------------------------------------------------------


@dataclass
class Ordeal:
    """A job on a planet of two regions with one node each, and what has befallen it so far."""

    story: Story
    record: Record
    faults: list[str] = field(default_factory=list)

    # -- where things are ------------------------------------------------------------------------

    def node(self) -> str:
        return str(self.story.job()["placement"][0]["node"])

    def other(self) -> str:
        (found,) = [n.name for n in self.story.planet.nodes if n.name != self.node()]
        return found

    def page(self, rank: int) -> Page:
        return Page(self.story.planet.data / "run" / self.story.id / f"rank-{rank}.page")

    def scratch(self, node: str) -> Path:
        """Where images are on their way."""
        memory = self.story.planet._scratch
        return memory / node if memory else self.story.planet.node_dir(node) / "images"

    def sandbox(self, node: str, rank: int) -> Sandbox | None:
        found = self.story.planet.node_dir(node) / "sandboxes"
        newest = sorted(found.glob(f"{self.story.id}.*.{rank}"), key=lambda p: p.stat().st_mtime)
        return Sandbox.adopt(newest[-1]) if newest else None

    # -- what can be done ------------------------------------------------------------------------

    def signal_rank(self, number: signal.Signals) -> None:
        """To rank 1, the last of the gang."""
        found = self.sandbox(self.node(), 1)
        assert found is not None and found.pid is not None
        os.kill(found.pid, number)

    def kill_what_is_in(self, node: str) -> None:
        """Every process of the half-restored rank 1, CRIU's own among them: what is in its pid
        namespace, the supervisor apart."""
        found = self.sandbox(node, 1)
        assert found is not None
        init = found.supervisor.pid
        until(lambda: [p for p in beside(init) if killed(p)], "something of it is there to kill")

    def ask_for_cut(self) -> None:
        self.story.call("POST", f"jobs/{self.story.id}/checkpoints")

    def move(self) -> str:
        """To the other region, whose name is returned."""
        away = elsewhere(self.story.home())
        self.story.call("POST", f"jobs/{self.story.id}/move", {"to": f"region/{away}"})
        return away

    def until_found(self, pattern: str, node: str, life: int) -> None:
        directory = self.scratch(node)
        until(lambda: list(directory.glob(f"{self.story.id}.{life}.{pattern}")), pattern, 60.0)

    def until_barrier(self) -> None:
        """A stop is set, and rank 0 is not past it."""
        page = self.page(0)
        until(lambda: page.stop >= page.count and page.stop > 0, "a barrier", 60.0)

    def life(self) -> int:
        return int(self.story.job()["incarnation"])

    # -- what must come of it --------------------------------------------------------------------

    def commit(self) -> None:
        """A cut that counts, to go back to."""
        before = self.story.job()["checkpoint"]
        self.ask_for_cut()
        self.story.until("a cut", lambda job: job["checkpoint"] != before)

    def outlived(self, fault: str, since: int, outcome: str) -> None:
        """It runs, makes progress, and came back from nowhere but the last cut that counts."""
        self.story.until(f"running after {fault}", lambda job: runs(job) and not busy(job))
        self.story.progress(10)
        events = self.events()
        last, handed, lives = 0, None, 0
        for event in events:
            match event["event"]:
                case "checkpoint":
                    last = event["facts"]["step"]
                case "handover":
                    handed = event["facts"]["step"]
                case "handover-discarded" | "running":
                    handed = None
                case "placed":
                    expected = last if handed is None else handed
                    assert event["facts"]["step"] == expected, (fault, event, expected)
                    lives += event["seq"] > since
                    came_from = expected
        self.faults.append(fault)
        back = f"new lives: {lives}, from step {came_from}" if lives else "the same life"
        self.record("fault", f"{fault} | {outcome} | {back} | 0 steps")

    def events(self) -> list[Any]:
        found: list[Any] = self.story.call("GET", f"jobs/{self.story.id}/events?limit=1000")[
            "items"
        ]
        return found

    def now(self) -> int:
        return int(self.events()[-1]["seq"])

    def tells(self, event: str, since: int, *words: str) -> None:
        """The history has come to say so."""

        def said(_: object) -> bool:
            return any(
                e["event"] == event
                and e["seq"] > since
                and all(w in e["reason"] + str(e["facts"]) for w in words)
                for e in self.events()
            )

        self.story.until(f"{event} with {words}", said)


def beside(init: int) -> Iterator[int]:
    """The other processes of the pid namespace of which `init` is the first."""
    mine = os.readlink(f"/proc/{init}/ns/pid")
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):
            if pid != init and os.readlink(f"/proc/{pid}/ns/pid") == mine:
                yield pid


def killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def busy(job: Mapping[str, Any]) -> bool:
    return bool(job["state"] in ("suspending", "starting", "stopping"))


@pytest.fixture
def ordeal(
    tmp_path: Path,
    record_property: Record,
) -> Iterator[Ordeal]:
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    regions = {
        name: Region(clusters={f"{name}-a": Cluster(nodes=1, device="cpu", devices=RANKS)})
        for name in ("north", "south")
    }
    policy = {"node_lost_after_s": "20"}  # kills here are restarts, never a loss
    where = tmp_path / "planet"
    with embedded.Planet(where, Fleet(regions=regions), policy=policy, lease_s=15.0) as made:
        story = Story(made, tmp_path / "out")
        yield Ordeal(story, record_property)
        story.close()


def submit(story: Story) -> Path:
    over = story.out.parent / "over"
    run = [sys.executable, str(SCRIPT), "--steps", "1000000", "--pause-s", str(PAUSE_S)]
    run += ["--out", str(story.out), "--until", str(over)]
    spec = {"name": "j", "run": run, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
    story.id = story.call("POST", "jobs", {**spec, "checkpoint": {"every": "never"}})["id"]
    story.until("running", runs)
    story.progress()
    return over


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """A disk with no room, mounted over `directory`."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can fill a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_job_outlives_what_befalls_it_in_every_phase(ordeal: Ordeal, tmp_path: Path) -> None:
    over = submit(ordeal.story)
    ordeal.commit()
    _full_disk(ordeal)
    _killed_ranks(ordeal)
    _killed_in_the_store(ordeal)
    for phase in ("barrier", "dump", "fetch", "restore"):
        _killed_agent(ordeal, phase)
    homes = [ordeal.scratch(node) for node in (ordeal.node(), ordeal.other())]
    # What was kept for a move goes with a heartbeat after the word that the move is over.
    until(
        lambda: not [path for home in homes for path in home.glob(f"{ordeal.story.id}.*")],
        "an agent that dies leaves no images behind for ever",
        60.0,
    )
    over.touch()
    ordeal.story.until("succeeded", lambda job: job["state"] == "succeeded")
    found = results(ordeal.story.out)
    assert found == reference_of(tmp_path, lines(ordeal.story.out / "loss-0.csv"))
    assert len(ordeal.faults) == 9, ordeal.faults


def _full_disk(ordeal: Ordeal) -> None:
    since = ordeal.now()
    with filled(ordeal.scratch(ordeal.node())):
        ordeal.ask_for_cut()
        ordeal.tells("checkpoint-failed", since, "No space left")
        assert ordeal.story.job()["checkpointing"]["engine"] == "transparent", "it may pass"
        ordeal.outlived("disk full in the dump", since, "the cut fails, the job runs on")


def _killed_ranks(ordeal: Ordeal) -> None:
    since = ordeal.now()
    ordeal.signal_rank(signal.SIGSTOP)
    ordeal.ask_for_cut()
    ordeal.until_barrier()  # to which rank 1 does not come
    ordeal.signal_rank(signal.SIGKILL)
    ordeal.tells("suspended", since, "signal 9")
    ordeal.outlived("rank killed in the barrier", since, "the gang fails over")
    since, node = ordeal.now(), ordeal.node()
    ordeal.ask_for_cut()
    ordeal.until_found("*/1/dump.log", node, ordeal.life())
    ordeal.signal_rank(signal.SIGKILL)
    ordeal.tells("suspended", since, "signal 9")
    ordeal.outlived("rank killed in the dump", since, "the gang fails over")
    since, there, life = ordeal.now(), ordeal.other(), ordeal.life()
    away = ordeal.move()
    ordeal.until_found("0/1/restore.log", there, life + 1)
    ordeal.kill_what_is_in(there)
    ordeal.tells("suspended", since)  # a move alone passes through no such state
    ordeal.story.until(f"in {away}", lambda job: runs(job) and job["region"] == away)
    ordeal.outlived("rank killed in the restore", since, "it is restored again")


def _killed_in_the_store(ordeal: Ordeal) -> None:
    since, node = ordeal.now(), ordeal.node()
    ordeal.ask_for_cut()
    ordeal.until_found("*/0/outputs.json", node, ordeal.life())
    ordeal.story.planet.kill(f"agent-{node}")
    ordeal.tells("checkpoint", since)
    ordeal.outlived("agent killed in the store", since, "the next agent takes the cut up")


def _killed_agent(ordeal: Ordeal, phase: str) -> None:
    """In the middle of a move: on the node it leaves, or on that to which it comes."""
    since, here_, there = ordeal.now(), ordeal.node(), ordeal.other()
    life = ordeal.life()
    away = ordeal.move()
    match phase:
        case "barrier":
            ordeal.until_barrier()
        case "dump":
            ordeal.until_found("*/0/dump.log", here_, life)
        case "fetch":
            ordeal.until_found("0", there, life + 1)
        case "restore":
            ordeal.until_found("0/0/restore.log", there, life + 1)
    leaving = phase in ("barrier", "dump")
    ordeal.story.planet.kill(f"agent-{here_ if leaving else there}")
    ordeal.story.until(f"in {away}", lambda job: runs(job) and job["region"] == away)
    outcome = "the next agent takes the cut up" if leaving else "it is restored again"
    ordeal.outlived(f"agent killed in the {phase}", since, outcome)
