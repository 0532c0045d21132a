"""The ranks of one run of jobs/steps.py, plain or interposed; stopped but in their turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from singularity.agent.interposer.page import Page, Rendezvous
from singularity.agent.runtime.splicing import merged_bytes

JOB = Path(__file__).resolve().parent / "jobs" / "steps.py"
WARM_STEPS = 50
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# Student's t for 95 %, by degrees of freedom.
_T95 = (0.0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)


def half_width(spread: float, count: int) -> float:
    """Half of the 95 % interval of a mean of `count` figures with that standard deviation."""
    degrees = count - 1
    return (_T95[degrees] if degrees < len(_T95) else 1.96) * spread / float(count) ** 0.5


@dataclass(frozen=True, slots=True)
class Shape:
    """How many ranks, how wide the network that learns, how many layers below it that do not."""

    ranks: int
    hidden: int
    frozen: int = 0


class Gang:
    """`inject` is the interposer's directory; None for plain torch. `port` names the run."""

    def __init__(self, scratch: Path, port: int, shape: Shape, inject: Path | None) -> None:
        self._log = scratch / f"{port}.steps"
        self._scratch, self._port, self._shape = scratch, port, shape
        self.pages: list[Page] = []
        self._generation = 1
        # Without address randomisation, as the product runs them: layouts differ in speed.
        argv = ["setarch", "-R", sys.executable, str(JOB), "--hidden", str(shape.hidden)]
        argv += ["--frozen", str(shape.frozen)]
        with self._log.open("w") as out:
            self._ranks = [
                subprocess.Popen(argv, env=self._env(rank, inject), stdout=out)
                for rank in range(shape.ranks)
            ]
        while len(self.steps()) < WARM_STEPS:
            assert all(rank.poll() is None for rank in self._ranks), "a rank died"
            time.sleep(0.05)
        assert all(page.step > 0 for page in self.pages), "the interposer never loaded"

    def _env(self, rank: int, inject: Path | None) -> dict[str, str]:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": str(self._shape.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._port),
        }
        if inject is None:
            return env
        page = Page.create(self._scratch / f"{self._port}-{rank}.page")
        page.rendezvous = self._rendezvous()
        self.pages.append(page)
        return env | {"PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(page.path)}

    def _rendezvous(self) -> Rendezvous:
        store = self._scratch / f"{self._port}-{self._generation}.store"
        return {"store": str(store), "generation": self._generation, "ip": ""}

    def resume(self) -> None:
        """Let parked ranks meet at a new place and go on."""
        self._generation += 1
        for page in self.pages:
            page.resume(self._rendezvous())

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> tuple[float, float]:
        """When it ran, by the clock that steps() has."""
        began_s = time.perf_counter()
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        ended_s = time.perf_counter()
        self.pause()
        return began_s, ended_s

    def steps(self) -> list[tuple[float, float]]:
        """When each step ended, and its seconds."""
        lines = self._log.read_text().split("\n")[:-1]
        return [(float(end), float(took)) for end, took in (line.split() for line in lines)]

    def cpu_s(self) -> float:
        """Of all ranks so far, in user space and in the kernel."""
        stats = (Path(f"/proc/{rank.pid}/stat").read_text() for rank in self._ranks)
        return sum(sum(map(int, s.rpartition(")")[2].split()[11:13])) for s in stats) / (
            _TICKS_A_SECOND
        )

    def memory_bytes(self) -> int:
        """Of all ranks; a page that several of them share counts once."""
        rollups = (Path(f"/proc/{rank.pid}/smaps_rollup").read_text() for rank in self._ranks)
        lines = (line for text in rollups for line in text.splitlines())
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def merged_bytes(self) -> int:
        return merged_bytes(rank.pid for rank in self._ranks)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        for rank in self._ranks:
            rank.wait()

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.send_signal(number)
