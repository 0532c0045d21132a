"""Which GPUs of the node a rank has, where they are given out whole.

The control plane counts devices and names none: here a life is given GPUs that no other has. A rank
sees those of its life on this node as cuda:0 and on, its own at the place that its LOCAL_RANK says,
as torchrun has it. Ranks that take turns on fewer GPUs still find theirs at that place; what is at
the other places is then not for them, and may be another's.

What is given is written in the sandbox of each rank, for the agents to come, and is free again with
it. A rank that is brought back runs on the GPUs of its new life: `moves` tells the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from singularity.primitives.errors import ImageUnfit, SandboxFailed
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId

from .layout import Layout
from .runtime.sandbox import Sandbox
from .sharing import Unshared

_NOTE: Final = "visible.json"  # in the sandbox of a rank, and beside its images


@dataclass(frozen=True, slots=True)
class Visible:
    """GPUs of the node by number: `own` are the rank's, `seen` all that it sees, in its order; and
    `was` what it saw before it was brought here, in the same order."""

    own: tuple[int, ...]
    seen: tuple[int, ...]
    was: tuple[int, ...] = ()


_VISIBLE: Final = TypeAdapter(Visible)


@dataclass(slots=True)
class _Given:
    """To one life, by slot; `waiting` are the ranks in whose sandbox that is not written yet."""

    incarnation: int
    gpus: tuple[int, ...]
    waiting: set[int] = field(default_factory=set)


class WholeGpus(Unshared):
    """Of a node with `count` GPUs. Thread-safe."""

    fixed = "ranks on GPUs are given others only by a checkpoint"

    def __init__(self, layout: Layout, count: int, reason: str) -> None:
        super().__init__(reason)
        self._layout, self._count = layout, count
        self._given: dict[JobId, _Given] = {}
        self._lock = threading.Lock()

    def environment(self, start: Start, rank: int, sandbox: Sandbox) -> Mapping[str, str]:
        """Raises SandboxFailed where so many are not free, or a rank would not find its own."""
        with self._lock:
            own = owned(start, rank, self._of(start))
            place = start.ranks.index(rank) * len(own)
            seen = ordered(own, place, self._of(start), self._count)
            if seen[place : place + len(own)] != own:
                raise SandboxFailed(
                    f"rank {rank} looks for its GPU at cuda:{place}, and this node has "
                    f"{self._count}: as many GPUs as ranks on a node, also where they take turns"
                )
            self._write(start, rank, sandbox, Visible(own, seen))
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # in which NVML counts them, and so do we
        return {**order, "CUDA_VISIBLE_DEVICES": ",".join(map(str, seen))}

    def note(self, sandbox: Sandbox, images: Path) -> None:
        if (found := recall(sandbox.directory)) is not None:
            (images / _NOTE).write_bytes(_VISIBLE.dump_json(found))

    def reseat(self, start: Start, rank: int, sandbox: Sandbox, images: Path) -> None:
        try:
            before = recall(images)
        except ValueError as error:
            raise ImageUnfit(f"what is noted of its GPUs is no such note: {error}") from error
        with self._lock:
            own = owned(start, rank, self._of(start))
            was = before or Visible((), ())
            seen = followed(was, own, self._of(start), self._count)
            self._write(start, rank, sandbox, Visible(own, seen, was.seen))

    def release(self, start: Start, rank: int) -> None:
        with self._lock:
            self._given.pop(start.job, None)

    # -- who has what ----------------------------------------------------------------------------

    def _of(self, start: Start) -> tuple[int, ...]:
        """What the life has, by slot: where ranks of the job have not left, what they have."""
        known = self._given.get(start.job)
        if known is not None and known.incarnation == start.incarnation:
            return known.gpus
        taken, mine = set[int](), dict[int, int]()
        for job, rank, found in self._written():
            if job != start.job:
                taken.update(found.own)
            elif rank in start.ranks:
                first = start.slots[start.ranks.index(rank)]
                mine |= {first + place: gpu for place, gpu in enumerate(found.own)}
        for job, others in self._given.items():
            taken.update(others.gpus if job != start.job and others.waiting else ())
        free = [n for n in range(self._count) if n not in taken and n not in mine.values()]
        lacking = [slot for slot in range(start.devices) if slot not in mine]
        if len(lacking) > len(free):
            raise SandboxFailed(f"{len(free)} GPUs are free, and {len(lacking)} are needed")
        mine |= dict(zip(lacking, free, strict=False))
        gpus = tuple(mine[slot] for slot in range(start.devices))
        self._given[start.job] = _Given(start.incarnation, gpus, set(start.ranks))
        return gpus

    def _write(self, start: Start, rank: int, sandbox: Sandbox, found: Visible) -> None:
        (sandbox.directory / _NOTE).write_bytes(_VISIBLE.dump_json(found))
        self._given[start.job].waiting.discard(rank)

    def _written(self) -> Iterator[tuple[JobId, int, Visible]]:
        for path in sorted(self._layout.sandboxes.glob(f"*/{_NOTE}")):
            with suppress(ValueError):
                job, _, rank = path.parent.name.rsplit(".", 2)
                if (found := recall(path.parent)) is not None:
                    yield JobId(job), int(rank), found


def owned(start: Start, rank: int, given: Sequence[int]) -> tuple[int, ...]:
    """The rank's own of what its life was `given` here."""
    each = max(1, start.devices // len(start.ranks))
    first = start.slots[start.ranks.index(rank)]
    return tuple(given[first : first + each])


def ordered(own: Sequence[int], place: int, given: Sequence[int], count: int) -> tuple[int, ...]:
    """What a rank sees: its `own` from `place` on. Its life's others fill the other places, and as
    far as those do not reach, others of the node."""
    rest = [gpu for gpu in dict.fromkeys((*given, *range(count))) if gpu not in own]
    return (*rest[:place], *own, *rest[place : max(place, len(given) - len(own))])


def followed(
    before: Visible, own: Sequence[int], given: Sequence[int], count: int
) -> tuple[int, ...]:
    """What a rank sees in place of what it saw: its own for its own, and for the others what is
    left, of its life's first. Raises ImageUnfit where the node has fewer than it saw."""
    if len(before.seen) > count or len(own) < len(before.own):
        raise ImageUnfit(f"it saw {len(before.seen)} GPUs, {len(before.own)} of them its own")
    now = dict(zip(before.own, own, strict=False))
    rest = (gpu for gpu in dict.fromkeys((*given, *range(count))) if gpu not in now.values())
    return tuple(now[gpu] if gpu in now else next(rest) for gpu in before.seen)


def recall(directory: Path) -> Visible | None:
    """Of a rank's sandbox, or of its images; None where nothing was given whole. Raises ValueError
    for a note that is none."""
    with suppress(FileNotFoundError):
        return _VISIBLE.validate_json((directory / _NOTE).read_bytes())
    return None


def moves(directory: Path) -> Mapping[int, int]:
    """Of the GPUs of the node before, which follow them here; {} of a rank that has none."""
    found = recall(directory)
    return dict(zip(found.was, found.seen, strict=False)) if found else {}
