"""However saves, drops, loads and sweeps interleave, no chunk is deleted that a manifest needs.

The production code runs, in threads; but only one of them at a time, and hypothesis says which one
makes the next call to the store.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singularity.primitives.model import JobId, Sealing, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.store.blobs import Blob
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from singularity.store.marks import LEASE_S
from tests.unit.stores import Shelf, Trays, plane

JOB, NODE = JobId("j"), NodeId("n")
BEGIN_S = 1000.0
FILES = {0: b"a" * 9, 1: b"b" * 9, 2: b"c" * 9}  # chunks that saves have in common


class Died(BaseException):
    """It does not even clean up: the calls for that fail as well."""


@dataclass
class Actor:
    """A thread that does nothing until it is its turn, and then makes one call."""

    work: Callable[[Gated], None]
    calls_most: int = 1 << 30  # then it dies
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    rests: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: bool = False
    error: BaseException | None = None

    def start(self, trays: dict[str, tuple[bytes, float]], now_s: float) -> None:
        threading.Thread(target=self._run, args=(trays, now_s), daemon=True).start()
        self.rests.acquire()

    def _run(self, trays: dict[str, tuple[bytes, float]], now_s: float) -> None:
        try:
            self.work(Gated(self, trays, now_s))
        except Died:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self.rests.release()

    def step(self) -> None:
        self.turn.release()
        self.rests.acquire()

    def pause(self) -> None:
        self.rests.release()
        self.turn.acquire()
        self.calls_most -= 1
        if self.calls_most < 0:
            raise Died


class Gated(Trays):
    """Every call waits for its turn; a move is the two calls that it is in an object store."""

    def __init__(self, actor: Actor, trays: dict[str, tuple[bytes, float]], now_s: float) -> None:
        super().__init__(trays, now_s)
        self._actor = actor

    def get(self, name: str) -> bytes:
        self._actor.pause()
        return super().get(name)

    def has(self, name: str) -> bool:
        self._actor.pause()
        return super().has(name)

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._actor.pause()
        super().put(name, data, durable=durable)

    def list(self, prefix: str) -> Iterator[Blob]:
        self._actor.pause()
        yield from list(super().list(prefix))

    def move(self, old: str, new: str) -> None:
        data = self.get(old)
        self.put(new, data)
        self.delete(old)

    def delete(self, name: str) -> None:
        self._actor.pause()
        super().delete(name)


def test_nothing_that_a_manifest_needs_is_ever_deleted() -> None:
    with tempfile.TemporaryDirectory() as name:
        for number, data in FILES.items():
            (Path(name) / str(number)).mkdir()
            (Path(name) / str(number) / "core.img").write_bytes(data)
        one_world(Path(name))


def one_world(root: Path) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.sets(st.sampled_from(sorted(FILES)), min_size=1), min_size=2, max_size=4),
        st.lists(st.integers(0, 7), max_size=150),
        st.lists(st.integers(0, 7), max_size=80),
        st.integers(0, 40),
    )
    def world(saves: list[set[int]], turns: list[int], later: list[int], calls: int) -> None:
        trays: dict[str, tuple[bytes, float]] = {}
        saved: dict[int, ShardImage] = {}
        dropped: set[int] = set()
        key = plane(Sealing.SIGNED)

        def save(cut: int, files: set[int]) -> Callable[[Gated], None]:
            ranks = {f: RankImages(root / str(f)) for f in files}

            def work(blobs: Gated) -> None:
                saved[cut] = Shelf(blobs, key).save(ImageKey(JOB, 1, cut, NODE), 1, ranks)

            return work

        def drop(blobs: Gated) -> None:
            dropped.add(0)
            Shelf(blobs, key).store.drop(JOB, 1, 0)

        def sweep(blobs: Gated) -> None:
            sweeper = Shelf(blobs, key).sweeper()
            for _ in range(3):
                sweeper.round()

        first, second, *rest = [save(cut, files) for cut, files in enumerate(saves)]
        run([Actor(first)], trays, [], BEGIN_S)  # is there before anything else, and goes
        dies = Actor(sweep, calls)
        run([Actor(second), Actor(drop), Actor(sweep), dies], trays, turns, BEGIN_S)
        actors = [Actor(work) for work in [*rest, sweep, sweep]]
        run(actors, trays, later, BEGIN_S + LEASE_S)  # the dead one's trash is taken over
        whole = Shelf(Trays(trays, BEGIN_S + 2 * LEASE_S), key)
        for cut in set(saved) - dropped:
            for rank in saves[cut]:
                with tempfile.TemporaryDirectory() as out:
                    target = Path(out) / "rank"
                    whole.load(ImageKey(JOB, 1, cut, NODE), saved[cut].digest, rank, target)
                    assert (target / "core.img").read_bytes() == FILES[rank]
        assert len(saved) == len(saves), "every save succeeded"
        whole.sweep()
        needed = set().union(*(saves[cut] for cut in set(saved) - dropped))
        left = [name for name in trays if name.startswith(("chunks/", "trash/"))]
        assert len(left) == len(needed), "and what nobody needs is gone"

    world()


def run(
    actors: list[Actor], trays: dict[str, tuple[bytes, float]], turns: list[int], now_s: float
) -> None:
    """To the end of all: first by `turns`, then one after another."""
    for actor in actors:
        actor.start(trays, now_s)
    for turn in turns:
        if going := [actor for actor in actors if not actor.done]:
            going[turn % len(going)].step()
    for actor in actors:
        while not actor.done:
            actor.step()
        if actor.error is not None:
            raise actor.error
