"""The way of images out of the store: every chunk read once, verified, and written wherever it
belongs; ranks that are fetched together have most of theirs in common. What lies in memory here
already, of another rank, cut or job, is copied and not read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from .blobs import Bytes
from .intake import side_by_side
from .manifest import ZEROS, Manifest, plain

_TOGETHER_BYTES: Final = 4 << 20  # worked off by one thread at a time

# Name, length and base of a chunk to its bytes. Raises ImageCorrupt.
Read = Callable[[str, int, Bytes | None], Bytes]

# Digest of a chunk to its bytes, in memory that nobody else can change.
AtHand = Mapping[str, memoryview]


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a chunk belongs: a file that is open for writing, and the offset there."""

    file: int
    offset: int


@dataclass(slots=True)
class _Family:
    """A chunk that stands alone, and the patches that lie over it, all of one length."""

    length: int
    spots: dict[str, list[_Spot]]


def fetch(
    manifest: Manifest,
    targets: Mapping[int, Path],
    read: Read,
    at_hand: AtHand,
    workers: int,
) -> None:
    """Write the files of each rank in `targets` to its directory. Raises OSError, ImageCorrupt."""
    with ExitStack() as stack:
        families: dict[str, _Family] = {}
        for name, length, spot in _spots(manifest, targets, stack):
            root = name
            while root in manifest.bases:
                root = manifest.bases[root]
            family = families.setdefault(root, _Family(length, defaultdict(list)))
            family.spots[name].append(spot)
        work = partial(_restore, manifest.bases, read, at_hand)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        side_by_side(pool, workers, work, _together(list(families.values())))


def _spots(
    manifest: Manifest, targets: Mapping[int, Path], stack: ExitStack
) -> Iterator[tuple[str, int, _Spot]]:
    for rank, target in sorted(targets.items()):
        target.mkdir(parents=True, exist_ok=True)
        for name, file in manifest.ranks[rank].files.items():
            out = stack.enter_context((target / Path(name).name).open("wb"))
            out.truncate(file.bytes)  # chunks of zeros stay holes
            offset = 0
            for chunk, length in file.chunks:
                if chunk != ZEROS:
                    yield chunk, length, _Spot(out.fileno(), offset)
                offset += length


def _restore(
    bases: Mapping[str, str], read: Read, at_hand: AtHand, families: Sequence[_Family]
) -> None:
    for family in families:
        known: dict[str, Bytes] = {}

        def raw(name: str, length: int, known: dict[str, Bytes] = known) -> Bytes:
            if name not in known:
                here = at_hand.get(plain(name))
                if here is None:
                    base = raw(bases[name], length, known) if name in bases else None
                    known[name] = read(name, length, base)
                else:
                    known[name] = here
            return known[name]

        for name, spots in family.spots.items():
            data = raw(name, family.length)
            for spot in spots:
                _write_at(spot.file, data, spot.offset)


def _together(families: Sequence[_Family]) -> Iterator[list[_Family]]:
    group: list[_Family] = []
    size = 0
    for family in families:
        group.append(family)
        size += family.length * len(family.spots)
        if size >= _TOGETHER_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_at(file: int, data: Bytes, offset: int) -> None:
    written = os.pwrite(file, data, offset)
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
