"""What no job can come back from leaves the store, as the ledger's checkpoints come and go."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from singularity.api.applier import SqlLedger
from singularity.api.tidy import Janitor
from singularity.primitives.messages import Phase, Register, Report
from singularity.primitives.model import Intent, Job, JobId, JobSpec, JobState, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.scheduler.decide import decide
from singularity.scheduler.policy import Policy
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from tests.unit.stores import Shelf, shelf

NODE, JOB = NodeId("n0"), JobId("j0")
POLICY = Policy()


class Plane:
    """The scheduler, a ledger in Postgres, a store, and a node that does what it is told."""

    def __init__(self, ledger: SqlLedger, shelf: Shelf, scratch: Path) -> None:
        self.ledger, self.shelf, self._scratch = ledger, shelf, scratch
        self.now_s = 1000.0
        self.janitor = Janitor(ledger, shelf.blobs, shelf.sweeper(), POLICY)
        address, at = "127.0.0.1:1", dict(region="r", cluster="c", device="cpu", devices=4)
        ledger.register(Register(node=NODE, address=address, epoch=0, **at), self.now_s)  # type: ignore[arg-type]
        spec = JobSpec(name="job", run=("train",), checkpoint_every_s=30.0, checkpoint_keep=2)
        ledger.submit(Job(id=JOB, spec=spec, devices=1, submitted_at_s=self.now_s))
        self.tick()
        self.say("running")

    @property
    def job(self) -> Job:
        return self.ledger.jobs()[JOB]

    def tick(self, pause_s: float = 40.0) -> None:
        self.now_s += pause_s
        self.ledger.commit(decide(self.ledger.snapshot(self.now_s), POLICY), self.now_s)

    def say(self, phase: Phase, image: ShardImage | None = None) -> None:
        job = self.job
        said = Report(
            job=JOB,
            node=NODE,
            incarnation=job.incarnation,
            phase=phase,
            cut=job.cut,
            image=image,
            step=job.cut,
        )
        self.ledger.record(said, self.now_s)

    def save(self) -> ShardImage:
        """As the node does for the cut that the job is asked for."""
        job = self.job
        images = self._scratch / f"{job.incarnation}-{job.cut}"
        images.mkdir(parents=True)
        (images / "pages-1.img").write_bytes(random.Random(job.cut).randbytes(10_000))
        key = ImageKey(JOB, job.incarnation, job.cut, NODE)
        return self.shelf.save(key, job.cut, {0: RankImages(images)})

    def checkpoint(self) -> None:
        self.tick()
        assert self.job.dumping, self.job
        self.say("running", self.save())

    def cuts(self) -> set[tuple[int, int]]:
        names = (blob.name.split("/")[2] for blob in self.shelf.blobs.list("manifests"))
        return {(int(name.split("-")[0]), int(name.split("-")[1])) for name in names}

    def chunks(self) -> int:
        return sum(1 for _ in self.shelf.blobs.list("chunks"))


@pytest.fixture
def world(ledger: SqlLedger, tmp_path: Path) -> Plane:
    return Plane(ledger, shelf(tmp_path / "store"), tmp_path / "images")


def listed(job: Job) -> set[tuple[int, int]]:
    return {(c.incarnation, c.cut) for c in job.checkpoints}


def test_only_the_checkpoints_that_are_kept_stay(world: Plane) -> None:
    for _ in range(5):
        world.checkpoint()
    assert len(world.cuts()) == 5 and len(listed(world.job)) == 2
    found = world.janitor.round(world.now_s)
    assert found.dropped == 3 and found.swept.freed_bytes > 3 * 10_000
    assert world.cuts() == listed(world.job) and world.chunks() == 2
    assert world.janitor.round(world.now_s + 1).dropped == 0


def test_a_cut_in_flight_and_what_a_restore_reads_are_let_be(world: Plane) -> None:
    world.checkpoint()
    world.tick()
    assert world.job.dumping
    image = world.save()  # stored, and the ledger has not heard of it
    world.janitor.round(world.now_s)
    assert len(world.cuts()) == 2
    world.say("running", image)
    world.say("lost")
    world.say("stopped")
    while world.job.state is not JobState.STARTING:
        world.tick()
    world.janitor.round(world.now_s)
    assert world.cuts() == listed(world.job), "it restores from the first of these"


def test_what_a_cut_that_came_to_nothing_has_stored_goes(world: Plane) -> None:
    world.checkpoint()
    world.tick()
    world.save()
    world.say("running")  # of this cut, and without an image: it failed
    assert not world.job.dumping
    world.janitor.round(world.now_s)
    assert world.cuts() == listed(world.job) and world.chunks() == 1


def test_checkpoints_of_a_job_that_has_ended_stay_for_a_while(world: Plane) -> None:
    world.checkpoint()
    world.ledger.intend(JOB, Intent.CANCEL, world.now_s)
    world.tick(1.0)
    world.say("stopped")
    assert world.job.state is JobState.CANCELLED, world.job
    world.janitor.round(world.now_s + POLICY.ended_kept_s - 60)
    assert len(world.cuts()) == 1
    world.janitor.round(world.now_s + POLICY.ended_kept_s + 60)
    assert world.cuts() == set() and world.chunks() == 0
    assert world.job == replace(world.job, checkpoints=())
