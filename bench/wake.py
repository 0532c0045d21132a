"""How soon one more replica answers, begun anew and woken where it rests.

A planet on this machine, the service of examples/inference (a CNN in torch) and a training that has
every device the service has not, and lends one. From the owner's word that two replicas shall
serve until the second answers: the round, the training's next mini-batch, the letter, the program.
With `warm: false` a replica that rests ends, and loads anew; by default it waits in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.inference.asking import NAME
from examples.inference.demo import RANKS, REGION, Story
from examples.inference.demo import document as service_document
from examples.inference.report import Run
from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region

POLICY = {"grow_after_s": "1", "scale_memory_s": "1", "scale_down_after_s": "1"}
_LOOK_S = 0.01


class Turns:
    def __init__(self, story: Story) -> None:
        self.story = story

    def wanted(self, least: int) -> None:
        self.story.call("PATCH", f"services/{NAME}", {"replicas": {"min": least, "max": 2}})

    def ready(self) -> int:
        return int(self.story.service()["replicas"]["ready"])

    def one(self) -> float:
        """Seconds until the second replica answers; then it rests, and the training has grown."""
        began_s = time.monotonic()
        self.wanted(2)
        while self.ready() < 2:
            time.sleep(_LOOK_S)
        took_s = time.monotonic() - began_s
        self.wanted(1)
        self.story.until("one to rest", lambda: self.ready() == 1, 120)
        self.story.until("the training to grow", self._grown, 120)
        return took_s

    def _grown(self) -> bool:
        held = sum(shard["devices"] for shard in self.story.job()["placement"])
        return held == RANKS - 1 and self.story.job()["state"] == "running"


def serve(story: Story, *, warm: bool) -> None:
    body: dict[str, Any] = service_document(story.root, 5) | {"warm": warm}
    story.call("POST", "services", {**body, "replicas": {"min": 1, "max": 2}})
    story.until("a replica", lambda: story.service()["condition"] == "serving", 120)


def told(what: str, taken: list[float]) -> None:
    middle = statistics.median(taken)
    print(f"{what}: {middle:.2f} s ({min(taken):.2f} to {max(taken):.2f}, {len(taken)} times)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=8)
    args = parser.parse_args()
    fleet = Fleet(regions={REGION: Region(clusters={"a": Cluster(nodes=1, devices=RANKS)})})
    with tempfile.TemporaryDirectory(prefix="singularity-bench-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        with Planet(root / "planet", fleet, policy=POLICY) as planet:
            story = Story(planet, root, Run("wake", lends=True))
            story.train(epochs=100_000)
            turns, found = Turns(story), dict[bool, list[float]]()
            for warm in (False, True):
                serve(story, warm=warm)
                turns.one()  # the first is cold either way
                found[warm] = [turns.one() for _ in range(args.turns)]
                story.call("DELETE", f"services/{NAME}")
                story.until("its end", lambda: not story.call("GET", "services")["items"], 60)
            told("begun anew", found[False])
            told("woken where it rests", found[True])
            story.call("POST", f"jobs/{story.training}/cancel")


if __name__ == "__main__":
    main()
