"""One agent before a control plane and hands that are the test's: what it does when its disk takes
nothing, and what it keeps."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from singularity.agent.answers import Ended
from singularity.agent.core import AgentState
from singularity.agent.effects import Effect, Kill, Launch
from singularity.agent.executor import Executor
from singularity.agent.journal import Journal
from singularity.agent.runtime.lease import RunLease
from singularity.agent.worker import Agent
from singularity.primitives.errors import Unavailable
from singularity.primitives.messages import (
    Admission,
    Command,
    Envelope,
    Heartbeat,
    Pulse,
    Register,
    Report,
    Sealed,
    Start,
)
from singularity.primitives.model import JobId, Sealing
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import SigningKey

NODE = NodeId("n")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


def start(job: str, size_bytes: int = 0) -> Start:
    return Start(
        job=JobId(job),
        node=NODE,
        incarnation=1,
        gang=(NODE,),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=("true",),
        env=(("LARGE", "x" * size_bytes),),
    )


class Plane:
    """Answers heartbeats, and keeps them; letters come by `post` only."""

    def __init__(self, key: SigningKey) -> None:
        self.key, self.seq = key, 0
        self.beats: list[Heartbeat] = []
        self.reports: list[Report] = []

    def register(self, _: Register) -> Admission:
        return Admission(
            epoch=1,
            token=None,
            verify_key=self.key.public,
            broker_url="",
            heartbeat_every_s=0.01,
            lease_s=0.5,
        )

    def heartbeat(self, beat: Heartbeat) -> Pulse:
        self.beats.append(beat)
        return Pulse(admitted=True, written=beat.acknowledged, lease_s=0.5)

    def report(self, reports: list[Report]) -> tuple[()]:
        self.reports += reports
        return ()

    def post(self, command: Command) -> Sealed:
        self.seq += 1
        return self.key.seal(Envelope(node=NODE, epoch=1, seq=self.seq, command=command))


class Hand:
    """Keeps what it is told to do."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.frozen, self.thawed = False, 0

    def perform(self, effect: Effect) -> None:
        self.effects.append(effect)

    def adopt(self, _: object) -> frozenset[tuple[JobId, int]]:
        return frozenset()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self.thawed += 1

    def kill_all(self) -> None:
        pass

    tend = kill_all

    def sharers(self) -> list[object]:
        return []

    def pages(self) -> dict[JobId, int]:
        return {}


class World:
    def __init__(self, directory: Path) -> None:
        self.plane = Plane(SigningKey.load_or_create(directory / "key", Sealing.ENCRYPTED))
        self.journal, self.hand = Journal(directory / "journal"), Hand()
        # Nobody pulls the plug here, and a disk that is busy takes seconds for each write.
        self.journal._db.execute("PRAGMA synchronous = OFF")
        register = Register(
            node=NODE, region="r", cluster="c", device="cpu", devices=4, address="n:1"
        )
        plane, self.lease = cast("Any", self.plane), RunLease(directory / "lease")
        self.agent = Agent(register, plane, self.journal, self.lease, lambda _: None)
        self.stop = threading.Event()
        life = (cast("Any", self.hand), self.stop)
        self.threads = [threading.Thread(target=self.agent.run, args=life)]
        self.threads[0].start()
        until(lambda: bool(self.plane.beats), "a first beat")

    def deliver(self, letter: Sealed) -> None:
        """As the letter-box does: it waits for the word that the letter is journaled."""
        self.threads.append(threading.Thread(target=self.agent.deliver, args=(letter,)))
        self.threads[-1].start()

    def disk(self, *, full: bool) -> None:
        """SQLite's own limit stands for the disk's: it fails in the same way."""
        pages = self.journal._db.execute("PRAGMA page_count").fetchone()[0]
        most = pages if full else 1_000_000
        self.journal._db.execute(f"PRAGMA max_page_count = {most}")

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.journal.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.close()


def test_a_journal_says_that_it_is_full_and_keeps_what_it_had(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.remember("token", "old")
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="journal cannot be written"):
        journal.remember("token", "x" * 100_000)
    assert journal.recall("token") == "old"
    journal.close()


def test_a_journal_is_for_its_agent_only(tmp_path: Path) -> None:
    (tmp_path / "journal").touch(mode=0o644)  # as an earlier release left it
    journal = Journal(tmp_path / "journal")
    journal.remember("token", "secret")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    journal.close()
    assert "journal-wal" in modes and set(modes.values()) == {0o600}


def test_ranks_that_their_supervisors_may_have_stopped_go_on_when_it_is_heard(world: World) -> None:
    """By whatever it was kept from running, it did not notice that its lease was over."""
    beats = len(world.plane.beats)
    until(lambda: len(world.plane.beats) > beats + 20, "it to be heard")
    assert world.hand.thawed == 0, "nobody was stopped"

    def gone_on() -> bool:
        world.lease.extend(time.monotonic() - 1.0)  # again: a beat may be about to write its own
        return world.hand.thawed > 0

    until(gone_on, "whoever was stopped goes on")


def test_what_cannot_be_journaled_is_not_done_until_it_can(world: World) -> None:
    world.disk(full=True)
    world.deliver(world.plane.post(start("j", 100_000)))
    beats = len(world.plane.beats)
    until(lambda: len(world.plane.beats) > beats + 100, "it to be heard of all the while")
    assert world.hand.effects == [] and not world.hand.frozen
    assert world.plane.beats[-1].acknowledged == 0
    world.disk(full=False)
    until(lambda: world.plane.beats[-1].acknowledged == 1, "the letter to be taken")
    assert [type(e) for e in world.hand.effects] == [Launch]


def test_a_disk_that_is_slow_does_not_silence_the_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that beats waited for it as well, and the ranks were stopped as if nobody heard
    of them any more."""
    writing, written, save = threading.Event(), threading.Event(), world.journal.save

    def slowly(state: AgentState) -> None:
        writing.set()
        assert written.wait(20)
        save(state)

    monkeypatch.setattr(world.journal, "save", slowly)
    world.deliver(world.plane.post(start("j")))
    assert writing.wait(20)
    beats = len(world.plane.beats)
    try:
        until(lambda: len(world.plane.beats) > beats + 20, "it to be heard of all the while")
        assert world.plane.beats[-1].acknowledged == 0, "it is not safe yet"
    finally:
        written.set()
    until(lambda: world.plane.beats[-1].acknowledged == 1, "the letter to be taken")
    assert not world.hand.frozen


def test_an_end_that_cannot_be_journaled_is_told_when_it_can(world: World) -> None:
    """The thread that told it died, and the job ran for ever in the eyes of all."""
    world.deliver(world.plane.post(start("j", 100_000)))
    until(lambda: bool(world.hand.effects), "the job to start")
    world.disk(full=True)
    cleared = threading.Event()
    end = Ended(JobId("j"), 1, reason="x" * 200_000)
    done = threading.Thread(target=world.agent.done, args=(end, cleared.set))
    world.threads.append(done)
    done.start()
    beats = len(world.plane.beats)
    until(lambda: len(world.plane.beats) > beats + 100, "it to be heard of all the while")
    assert not cleared.is_set() and world.plane.reports == []
    world.disk(full=False)
    until(lambda: len(world.plane.reports) == 1, "the end to be told")
    assert cleared.is_set() and world.plane.reports[0].reason == end.reason


def test_hands_of_jobs_that_are_over_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent lives for months, and each job had a thread, its pages and its environment."""

    class Short(threading.Thread):
        """Over as soon as it has something to do."""

        def __init__(self, command: Start) -> None:
            super().__init__(daemon=True)
            self.start_command, self.ended = command, False

        def put(self, _: Effect) -> None:
            self.ended = True

    class Images:
        recent = property(lambda self: self)

        def room(self) -> None:
            pass

    class Warm:
        def room(self) -> tuple[()]:
            return ()

    class Tools:
        images, warm = Images(), Warm()

    answers: list[object] = []
    executor = Executor(cast("Any", Tools()), lambda done, _: answers.append(done))
    made: list[weakref.ref[Short]] = []

    def make(command: Start) -> Short:
        found = Short(command)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(executor, "_make", make)
    for number in range(20):
        executor.perform(Launch(start(f"j{number}", 1000)))
        hands = made[-1]()
        assert hands is not None
        hands.join()
        del hands
        executor.tend()
    gc.collect()
    assert [ref() for ref in made] == [None] * 20
    executor.perform(Kill(JobId("j3"), 1))  # who asks later is told that it is over
    until(lambda: answers == [Ended(JobId("j3"), 1, killed=True)], "an answer")
