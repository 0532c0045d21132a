"""The CNN as a service, and who asks it: what the demos share."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME: Final = "digits-cnn"
WAIT_MOST_S: Final = 2.0  # as service.yaml promises
PROMISED: Final = 0.95  # of the requests
Json = dict[str, Any]
Curve = Sequence[tuple[float, float]]  # seconds, and requests a second from then to the next


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as bench/load.py tells of it."""

    meant_s: float
    wait_s: float
    latency_s: float
    status: int

    @property
    def kept(self) -> bool:
        return self.status == 200 and self.wait_s <= WAIT_MOST_S


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def waits(asked: Sequence[Asked]) -> tuple[float, float]:
    found = [a.wait_s for a in asked]
    return quantile(found, 0.5), quantile(found, 0.99)


def document(root: Path, device_ms: int) -> Json:
    """service.yaml, with weights kept in `root`; an answer takes `device_ms` at least."""
    found: Json = yaml.safe_load((HERE / "service.yaml").read_text())
    script, weights = str(HERE / "serve.py"), root / "weights.pt"
    subprocess.run([sys.executable, script, "--keep", str(weights)], check=True)
    run = [sys.executable, script, "--port", "$PORT", "--device-ms", str(device_ms)]
    return {**found, "run": [*run, "--weights", str(weights)]}


class Load:
    """Requests that a process of its own sends. `began_s` is when the first second of its curve
    began, by the monotonic clock."""

    def __init__(self, process: subprocess.Popen[str], told: Path) -> None:
        self._process, self._told = process, told
        assert process.stdout is not None
        self.began_s = float(process.stdout.readline().rpartition(" ")[2])

    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self) -> list[Asked]:
        """Ask no more; what came of all, in the order in which they were meant to be sent."""
        self._process.terminate()
        return self.asked()

    def asked(self) -> list[Asked]:
        """When it has ended."""
        self._process.communicate()
        if self._process.returncode:
            raise SystemExit("the load generator failed")
        with self._told.open() as file:
            return [
                Asked(
                    float(row["meant_s"]),
                    float(row["wait_s"]),
                    float(row["latency_s"]),
                    int(row["status"]),
                )
                for row in csv.DictReader(file)
            ]


@contextmanager
def load(router_url: str, curve: Curve, root: Path) -> Iterator[Load]:
    """Open-loop, at a router; files are kept in `root`."""
    from sklearn.datasets import load_digits  # slow to import, and not needed to read what came

    bodies, told = root / "bodies", root / "asked.csv"
    pixels = load_digits().images[:200].reshape(-1, 64).astype(int).tolist()
    bodies.write_text("\n".join(json.dumps({"pixels": each}) for each in pixels))
    argv = [sys.executable, str(ROOT / "bench" / "load.py")]
    argv += ["--url", f"{router_url}/default/{NAME}/classify", "--bodies", str(bodies)]
    argv += ["--curve", ",".join(f"{at}:{rate}" for at, rate in curve), "--out", str(told)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Load(process, told)
        finally:
            process.kill()
