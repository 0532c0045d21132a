"""Unmodified jobs, cut at mini-batch boundaries: the numbers are those of plain torchrun.

Real processes and no CRIU: a parked rank stays where it is and reconnects in a new generation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from singularity.agent.interposer.inject import prepare
from singularity.agent.interposer.page import Page, ParkRecord, State
from tests.integration.plain import run_plain

pytest.importorskip("torch")

JOBS = Path(__file__).parent / "jobs"
WORLD = 4
DEADLINE_S = 120.0


class Gang:
    """The ranks of one job and the agents' half of the protocol."""

    def __init__(self, directory: Path, script: str, world: int) -> None:
        self.world = world
        self.out = directory / "out"
        self._run, self._volume = directory / "run", directory / "volume"
        self._script = script
        for path in (self.out, self._run, self._volume):
            path.mkdir(parents=True)
        self.pages = [Page.create(self._run / f"rank-{rank}.page") for rank in range(world)]
        self._inject = prepare(directory / "inject")
        self._generation = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._generation += 1
        for rank, page in enumerate(self.pages):
            page.rendezvous = {"store": self._store(), "generation": self._generation, "ip": ""}
            self._processes.append(self._launch(rank, page))

    def _launch(self, rank: int, page: Page) -> subprocess.Popen[bytes]:
        own = {"SINGULARITY_PAGE": str(page.path), "PYTHONPATH": str(self._inject)}
        command = [sys.executable, str(JOBS / self._script), str(self.out)]
        with (self.out / f"rank-{rank}.stderr").open("wb") as errors:
            return subprocess.Popen(
                command,
                env={**_environment(), **own, **_place(rank, self.world)},
                stdout=errors,
                stderr=errors,
            )

    def _store(self) -> str:
        return str(self._volume / f"generation-{self._generation}")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; a dead rank or the deadline fails the test with the reason."""
        give_up_s = time.monotonic() + DEADLINE_S
        while not condition():
            failed = [i for i, p in enumerate(self._processes) if p.poll() not in (None, 0)]
            assert not failed, (self.out / f"rank-{failed[0]}.stderr").read_text()
            assert time.monotonic() < give_up_s, f"no {what}: {self.describe()}"
            time.sleep(0.001)

    def describe(self) -> list[tuple[State, int]]:
        return [(page.state, page.step) for page in self.pages]

    def reach(self, step: int) -> None:
        self.until(lambda: all(page.step >= step for page in self.pages), f"step {step}")

    def park(self) -> int:
        """Agree on a step out of band and bring every rank to rest there. Returns the step."""
        margin = 2
        while True:
            stop = max(page.step for page in self.pages) + margin
            for page in self.pages:
                page.stop = stop
            time.sleep(0.001)  # the protocol's own millisecond, see Page.acknowledges
            if all(page.acknowledges(stop) for page in self.pages):
                break
            margin *= 2
        for page in self.pages:
            page.commit = stop
        self.until(lambda: all(p.state == State.PARKED for p in self.pages), "park")
        return stop

    def assert_at_rest(self, stop: int) -> None:
        assert [page.step for page in self.pages] == [stop] * self.world
        assert [page.sockets for page in self.pages] == [0] * self.world
        for process, page in zip(self._processes, self.pages, strict=True):
            assert _sockets(process.pid) == [], page.path
            record = ParkRecord.load(page.path)
            assert (record.step, record.sockets) == (stop, ())
            assert len(record.tensors) > 2
            assert all(size_bytes > 0 for _, size_bytes in record.tensors)

    def resume(self, ip: str = "") -> None:
        self._generation += 1
        for page in self.pages:
            page.resume({"store": self._store(), "generation": self._generation, "ip": ip})
        self.until(
            lambda: all(
                page.generation == self._generation and page.state in (State.RUNNING, State.EXITED)
                for page in self.pages
            ),
            "reconnection",
        )

    def finish(self) -> list[str]:
        """Wait for a clean end; every rank's own log."""
        self.until(lambda: all(p.poll() == 0 for p in self._processes), "end")
        assert [page.state for page in self.pages] == [State.EXITED] * self.world
        return _logs(self.out)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def gang(directory: Path, script: str, world: int = WORLD) -> Iterator[Gang]:
    ranks = Gang(directory, script, world)
    try:
        yield ranks
    finally:
        ranks.kill()


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SINGULARITY_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _place(rank: int, world: int) -> dict[str, str]:
    if world == 1:
        return {}
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",  # nobody listens there: the page's rendezvous is used or nothing works
    }


def _sockets(pid: int) -> list[str]:
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        link = os.readlink(descriptor)
        if link.startswith("socket:"):
            links.append(link)
    return links


def _logs(out: Path) -> list[str]:
    return [path.read_text() for path in sorted(out.glob("rank-*.txt"))]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The logs of an untouched run under plain torchrun, one run per script."""
    known: dict[str, list[str]] = {}

    def run(script: str) -> list[str]:
        if script not in known:
            out = tmp_path_factory.mktemp("reference")
            run_plain(out, 1 if script == "single.py" else WORLD, str(JOBS / script), str(out))
            known[script] = _logs(out)
        return known[script]

    return run


def test_ddp_is_cut_again_and_again(tmp_path: Path, reference: Callable[[str], list[str]]) -> None:
    with gang(tmp_path, "ddp.py") as ranks:
        ranks.start()
        for step in (2, 14, 26, 50):  # in every model, once while a loader's workers start
            ranks.reach(step)
            ranks.assert_at_rest(ranks.park())
            ranks.resume(ip="127.0.0.1")
        assert ranks.finish() == reference("ddp.py")


def test_all_collectives_and_fsdp2_survive_a_cut(
    tmp_path: Path, reference: Callable[[str], list[str]]
) -> None:
    with gang(tmp_path, "collectives.py") as ranks:
        ranks.start()
        for step in (3, 12, 30):
            ranks.reach(step)
            ranks.assert_at_rest(ranks.park())
            ranks.resume()
        assert ranks.finish() == reference("collectives.py")


def test_ranks_take_turns_on_fewer_slots_without_a_change_in_the_numbers(
    tmp_path: Path, reference: Callable[[str], list[str]]
) -> None:
    with gang(tmp_path, "ddp.py") as ranks:
        for rank, page in enumerate(ranks.pages):
            page.slot = rank // 2
        ranks.start()
        ranks.reach(10)
        for page in ranks.pages:  # live, with no cut at all
            page.slot = 0
        ranks.reach(26)
        ranks.assert_at_rest(ranks.park())
        ranks.resume()
        ranks.reach(40)
        for page in ranks.pages:
            page.slot = -1
        assert ranks.finish() == reference("ddp.py")


def test_a_single_process_needs_no_torch_distributed(
    tmp_path: Path, reference: Callable[[str], list[str]]
) -> None:
    with gang(tmp_path, "single.py", world=1) as ranks:
        (page,) = ranks.pages
        page.stop = 10  # told before it even starts
        ranks.start()
        ranks.until(lambda: page.state == State.HOLDING, "hold")
        assert page.step == 10
        page.stop = 20  # raised: in a larger gang somebody was already past it
        ranks.until(lambda: page.state == State.HOLDING and page.step == 20, "hold at 20")
        page.stop = 0  # called off
        ranks.reach(25)
        stop = ranks.park()
        ranks.assert_at_rest(stop)
        Page.create(page.path)  # as the agent that restores the rank elsewhere does
        ranks.until(lambda: page.state == State.PARKED, "word from the rank")
        ranks.assert_at_rest(stop)
        ranks.resume()
        assert ranks.finish() == reference("single.py")


def test_a_job_whose_page_is_missing_runs_as_plain_torch(
    tmp_path: Path, reference: Callable[[str], list[str]]
) -> None:
    env = {
        **_environment(),
        "SINGULARITY_PAGE": str(tmp_path / "nowhere"),
        "PYTHONPATH": str(prepare(tmp_path / "inject")),
    }
    command = [sys.executable, str(JOBS / "single.py"), str(tmp_path)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "cannot be moved" in ended.stderr
    assert _logs(tmp_path) == reference("single.py")
