"""The door for new jobs. Requests that come within a few milliseconds share one transaction: that
is several times as many submits a second as one transaction each, for a few milliseconds' wait."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Final

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from singularity.primitives.asides import STEPS, shadow
from singularity.primitives.clock import Clock
from singularity.primitives.errors import (
    InvalidSpec,
    SingularityError,
    TooLarge,
    Unavailable,
    Unplaceable,
)
from singularity.primitives.model import Aside, Job, JobId, JobSpec
from singularity.primitives.nodes import Node
from singularity.primitives.sharing import WHOLE_MILLI
from singularity.scheduler.explain import unshared
from singularity.scheduler.placement import alike, allowed, pack, sizes
from singularity.scheduler.snapshot import Snapshot

from .applier import SqlLedger
from .database import wake
from .rows import Submission
from .schemas import JobDocument

log = logging.getLogger(__name__)

_WINDOW_S: Final = 0.002
_BATCH_MOST: Final = 2000
_JOBS_MOST: Final = 10_000  # of one request
_SIZE_MOST_BYTES: Final = 64 << 20  # of what the arrays of one request write
_BREATH_S: Final = 0.01  # between two wake-ups, however much there is to wake for
_DEADLINE_S: Final = 30.0
_FLEET_AGE_S: Final = 1.0
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: read aloud without doubt
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
Entry = tuple[Job, Submission]


class Ids:
    """Ids that sort by time of submission, those of one server in the order of asking, then by
    place in the array; not to be guessed."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0

    def __call__(self, count: int, now_s: float) -> list[JobId]:
        with self._lock:
            first = (int(now_s * 1000) << 40) | secrets.randbits(39)
            first = max(first, self._last + 1 + secrets.randbits(30))
            self._last = first + count - 1
        return [JobId(_base32(first + i)) for i in range(count)]


new_ids: Final = Ids()


def _base32(number: int) -> str:
    """18 characters: 50 bits of milliseconds, 40 of chance."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(80, -1, -10)])


def oldest_id(now_s: float) -> JobId:
    """No id that is made from then on is less."""
    return JobId(_base32(max(0, int(now_s * 1000)) << 40))


def digest(body: object) -> str:
    """Of what was sent, whatever the order of its keys."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def entries(
    document: JobDocument, after: Sequence[JobId], key: str | None, body: object, now_s: float
) -> list[Entry]:
    """One new job, or as many as the array has, each of which knows its own number; then those
    that verify them, where the document asks for a preflight."""
    count = document.array or 1
    mark = None if key is None else digest(body)
    out = []
    for number, id_ in enumerate(new_ids(count, now_s)):
        name = document.name if document.array is None else f"{document.name}-{number}"
        spec = document.spec(name, after)
        if document.array is not None:
            mine = (("ARRAY_INDEX", str(number)), ("ARRAY_SIZE", str(count)))
            spec = _with_env(spec, mine)
        job = Job(id=id_, spec=spec, devices=spec.devices, submitted_at_s=now_s, since_s=now_s)
        named = key if key is None or document.array is None else f"{key}/{number}"
        out.append((job, Submission(named, mark)))
    if document.checkpoint.preflight:
        out += [_preflight(job, known, now_s) for job, known in out]
    return out


def _preflight(job: Job, known: Submission, now_s: float) -> Entry:
    """A request that is repeated finds it as it finds the job."""
    (id_,) = new_ids(1, now_s)
    key = None if known.key is None else f"{known.key}/preflight"
    return shadow(job, Aside(job.id, STEPS), id_, now_s), Submission(key, known.digest)


def _with_env(spec: JobSpec, more: Sequence[tuple[str, str]]) -> JobSpec:
    return replace(spec, env=tuple(sorted({**dict(spec.env), **dict(more)}.items())))


@dataclass(slots=True)
class Measure:
    """What one request asks for in all: an array is its document once for each of its jobs."""

    jobs: int = 0
    size_bytes: int = 0

    def add(self, count: int, body: object) -> None:
        """Raises TooLarge, and then it is not added."""
        jobs = self.jobs + count
        size_bytes = self.size_bytes + (count * len(json.dumps(body)) if count > 1 else 0)
        if jobs > _JOBS_MOST:
            raise TooLarge(
                f"{jobs} jobs are more than the {_JOBS_MOST} that one request may ask for; "
                "ask in several",
                most=_JOBS_MOST,
            )
        if size_bytes > _SIZE_MOST_BYTES:
            raise TooLarge(
                f"{count} jobs with a document of {size_bytes // count} bytes each are more than "
                f"{_SIZE_MOST_BYTES >> 20} MiB; put what is large into a file that they read",
                most_bytes=_SIZE_MOST_BYTES,
            )
        self.jobs, self.size_bytes = jobs, size_bytes


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the fleet could hold if it were empty; None of a planet without nodes.

    Nodes that are lost or drained count: they may come back. So does one that only registers
    later, but that cannot be known: a planet without nodes takes every job.
    """

    empty: Snapshot | None

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Capacity:
        idle = [replace(n, used=0, parts=()) for n in nodes]
        return cls(Snapshot.build(idle, [], 0.0) if idle else None)

    def must_fit(self, job: Job) -> None:
        """Raises Unplaceable when the gang could not be held, and says what could."""
        empty = self.empty
        if empty is None:
            return
        may = allowed(empty, job.spec)
        if not may.any():
            if why := unshared(empty, job.spec):
                raise Unplaceable(why, device=job.spec.device, largest=0)
            kinds = ", ".join(empty.device_names)
            raise Unplaceable(
                f"no node has {job.spec.device} in the regions allowed; "
                f"the fleet has {kinds} in {', '.join(empty.region_names)}",
                device=job.spec.device,
                largest=0,
            )
        room = empty.total * may
        if any(pack(empty, room, job, count) for count in sizes(job)):
            return
        largest = next((d for d in range(job.devices, 0, -1) if pack(empty, room, job, d)), 0)
        near = "rack" if job.spec.topology.same_rack else "cluster"
        where = "one node" if job.spec.same_node else f"one {near}"
        raise Unplaceable(
            f"{min(sizes(job))} {job.spec.device} do not fit into {where} that it may use, even "
            f"empty; the largest gang that fits has {largest}",
            device=job.spec.device,
            largest=largest,
        )

    def must_hold(self, spec: JobSpec, replicas: int) -> None:
        """Raises Unplaceable when there could not be so many, each on one node."""
        if self.empty is None:
            return
        self.must_fit(Job(JobId(""), spec, spec.devices))
        may = allowed(self.empty, spec)
        each = self.empty.total // spec.devices
        what = f"{spec.devices} {spec.device}"
        if (part := spec.share) is not None:  # so many on each device
            beside = np.minimum(
                WHOLE_MILLI // part.compute_milli, self.empty.memory // part.memory_bytes
            )
            each, what = self.empty.total * beside, f"{part} of a {spec.device}"
        most = int(each[may].sum())
        if replicas > most:
            raise Unplaceable(
                f"{replicas} replicas of {what} are more than the regions "
                f"allowed could hold, even empty: at most {most}; ask for a smaller replicas.min",
                device=spec.device,
                largest=most,
            )


class Gauge:
    """Whether new jobs fit, by a fleet that was read a moment ago; read again before a refusal. Of
    what is alike one is looked at."""

    def __init__(self, fleet: Callable[[], Sequence[Node]], clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock
        self._read_s, self._capacity = -math.inf, Capacity(None)
        self._fitting: set[Hashable] = set()

    def fits(self, job: Job) -> bool:
        """Did one that is alike fit a moment ago? Asks nobody."""
        fresh = 0 <= self._clock.now_s() - self._read_s < _FLEET_AGE_S
        return fresh and _kind(job) in self._fitting

    def must_fit(self, job: Job) -> None:
        """Raises Unplaceable."""
        if not self.fits(job):
            self._ask(lambda capacity: capacity.must_fit(job))
            self._fitting.add(_kind(job))

    def must_hold(self, spec: JobSpec, replicas: int) -> None:
        """Raises Unplaceable."""
        self._ask(lambda capacity: capacity.must_hold(spec, replicas))

    def _ask(self, must_fit: Callable[[Capacity], None]) -> None:
        now_s = self._clock.now_s()
        if self._capacity.empty and 0 <= now_s - self._read_s < _FLEET_AGE_S:
            try:
                must_fit(self._capacity)
                return
            except Unplaceable:
                pass  # a node may have registered since
        self._capacity, self._fitting = Capacity.of(self._fleet()), set()
        self._read_s = now_s
        must_fit(self._capacity)


def _kind(job: Job) -> Hashable:
    """Jobs of one kind fit where one of them does."""
    return alike(job), job.devices, job.spec.devices_min, job.spec.ranks


class Waker:
    """Tells the loops that there is something to do, at most every 10 ms."""

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self._engine, self._stop = engine, stop
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._asked.set()

    def close(self) -> None:
        """After `stop` was set."""
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while self._asked.wait() and not self._stop.is_set():
            self._asked.clear()
            try:
                wake(self._engine)
            except DBAPIError as error:  # the loops also look by themselves
                log.warning("cannot wake", extra={"reason": str(error.orig).strip()})
            self._stop.wait(_BREATH_S)


def _slow() -> Unavailable:
    return Unavailable("the database is slow; with the same key it is safe to repeat")


@dataclass(slots=True)
class _Ask:
    entries: list[Entry]
    answer: Future[list[JobId]] = field(default_factory=Future)

    def wait(self) -> list[JobId]:
        try:
            return self.answer.result(_DEADLINE_S)
        except TimeoutError:
            raise _slow() from None

    @property
    def keys(self) -> set[tuple[str, str]]:
        return {(j.spec.project, s.key) for j, s in self.entries if s.key is not None}


class Intake:
    """Collects submits and writes them together. One thread; `submit` may be called by many."""

    def __init__(self, ledger: SqlLedger, waker: Waker, stop: threading.Event) -> None:
        self._ledger, self._waker, self._stop = ledger, waker, stop
        self._asked: SimpleQueue[_Ask | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def submit(self, new: list[Entry]) -> list[JobId]:
        """Durable on return. Raises IdempotencyMismatch, Unavailable."""
        return self.ask(new)()

    async def submitted(self, new: list[Entry]) -> list[JobId]:
        """As `submit`, for who waits in the event loop. Who gives up waiting takes nothing back."""
        self._asked.put(ask := _Ask(new))
        written = asyncio.shield(asyncio.wrap_future(ask.answer))
        try:
            return await asyncio.wait_for(written, _DEADLINE_S)
        except TimeoutError:
            raise _slow() from None

    def ask(self, new: list[Entry]) -> Callable[[], list[JobId]]:
        """To be written soon, in the order of asking; what is returned waits, as `submit` does."""
        self._asked.put(ask := _Ask(new))
        return ask.wait

    def close(self) -> None:
        """After `stop` was set. What was asked before is still written."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set() or not self._asked.empty():
            for batch in _apart(self._collect()):
                self._write(batch)

    def _collect(self) -> list[_Ask]:
        """What has come, and what comes within the window."""
        found = [self._asked.get()]
        self._stop.wait(_WINDOW_S)
        while len(found) < _BATCH_MOST:
            try:
                found.append(self._asked.get_nowait())
            except Empty:
                break
        return [ask for ask in found if ask is not None]

    def _write(self, batch: list[_Ask]) -> None:
        try:
            ids = self._ledger.submit_many([e for ask in batch for e in ask.entries])
        except Exception as error:  # whatever it is, it belongs to who asked
            if (half := len(batch) // 2) > 0:  # one spoils it for all: found by halves
                self._write(batch[:half])
                self._write(batch[half:])
                return
            self._refuse(batch[0], error)
            return
        self._waker.wake()
        for ask in batch:
            mine, ids = ids[: len(ask.entries)], ids[len(ask.entries) :]
            ask.answer.set_result(mine)

    def _refuse(self, ask: _Ask, error: Exception) -> None:
        """Another server may have written the same key in between: then it is found now."""
        if isinstance(error, IntegrityError) and ask.keys:
            try:
                ask.answer.set_result(self._ledger.submit_many(ask.entries))
            except (DBAPIError, SingularityError) as again:
                ask.answer.set_exception(again)
            return
        if isinstance(error, DataError):
            error = InvalidSpec("some text holds characters that cannot be stored")
        ask.answer.set_exception(error)


def _apart(asked: list[_Ask]) -> list[list[_Ask]]:
    """Batches in which no idempotency key comes twice, in order of arrival."""
    batches: list[list[_Ask]] = []
    seen: list[set[tuple[str, str]]] = []
    for ask in asked:
        if not batches or ask.keys & seen[-1]:
            batches.append([])
            seen.append(set())
        batches[-1].append(ask)
        seen[-1] |= ask.keys
    return batches


def check_key(key: str | None) -> str | None:
    """Raises InvalidSpec when it is no key."""
    if key is not None and not (1 <= len(key) <= 200 and key.isprintable()):
        raise InvalidSpec("Idempotency-Key must be 1 to 200 printable characters")
    return key
