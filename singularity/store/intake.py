"""The way of images into the store: cut, named, packed where new.

A piece of memory that the store lacks is most often one that it has, with some words changed: what
another rank of the save has at the same address, or this rank had there at the cut before. It is
then stored as a patch over that chunk. The names tell: a patch is `<digest>-<of its base>`.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

from singularity.primitives.errors import ImageCorrupt

from .blobs import Blobs, Stage
from .chunking import MEMORY_CHUNK_BYTES, FileCut, Tensor, addresses, cut_rank, worth_cutting
from .manifest import (
    ZEROS,
    FileEntry,
    Place,
    chain,
    chunk_name,
    closure,
    patch_name,
    plain,
)
from .marks import Mark
from .vault import Vault

_AHEAD: Final = 4  # items a worker, so that nobody waits and memory stays bounded
_TOGETHER_BYTES: Final = 4 << 20  # of an image file, worked off by one thread at a time
_DEEPEST: Final = 2  # patches over each other: each makes a load take longer
_SURELY_SMALL: Final = 8  # a patch that is this many times smaller is not compared to anything
_WORTH_IT: Final = 0.7  # of the chunk packed by itself: more, and the chunk stands alone
_POPULATE_READ: Final = 22  # MADV_POPULATE_READ: map a stretch at once, not page by page

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Door:
    """Where what comes in goes to."""

    blobs: Blobs
    stage: Stage
    mark: Mark
    vault: Vault


@dataclass(frozen=True, slots=True)
class Past:
    """Chunks of an earlier cut: of each rank by their place, and which lie over which."""

    ranks: Mapping[int, Mapping[Place, str]] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk to be: `length` bytes of an image file, from `offset` on. `place` is where in
    memory, if it is memory that a patch may be made of."""

    offset: int
    length: int
    place: Place | None


class Intake:
    """One save. `raw_bytes` were taken, `new_bytes` of them had to be written, packed."""

    def __init__(self, door: Door, pool: ThreadPoolExecutor, past: Past) -> None:
        self.door, self._pool, self._past = door, pool, past
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._names: dict[str, str] = {}  # digest -> how it is stored
        self._over = dict(past.bases)
        self._first: dict[Place, tuple[str, memoryview]] | None = None
        self.raw_bytes = self.new_bytes = 0

    def take(self, rank: int, images: Path, tensors: Sequence[Tensor]) -> dict[str, FileEntry]:
        """Every file of one rank, cut into chunks; those that the store lacks are put there. One
        rank at a time, whoever calls; `images` may be removed when this returns."""
        with self._turn:
            cuts = cut_rank(images, worth_cutting(tensors))
            before = self._past.ranks.get(rank, {})
            seen: dict[Place, tuple[str, memoryview]] = {}
            found = {n: self._file(images / n, cut, before, seen) for n, cut in cuts.items()}
            if self._first is None:
                self._first = seen
            return found

    def bases(self, files: Iterable[FileEntry]) -> dict[str, str]:
        """Of every patch in `files`, and of their bases."""
        names = (name for file in files for name, _ in file.chunks)
        return closure(names, self._over)

    def _file(
        self,
        path: Path,
        cut: FileCut,
        before: Mapping[Place, str],
        seen: dict[Place, tuple[str, memoryview]],
    ) -> FileEntry:
        size = sum(cut.lengths)
        self.raw_bytes += size
        if size == 0:
            return FileEntry(0, ())
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        data = memoryview(mapped)  # unmapped when nobody holds a part of it any more
        pieces = list(_pieces(cut))
        work = partial(self._take_pieces, mapped, data, before)
        groups = side_by_side(self._pool, self.door.blobs.workers, work, _together(pieces))
        names = [name for group in groups for name in group]
        for piece, name in zip(pieces, names, strict=True):
            if self._first is None and piece.place is not None and name != ZEROS:
                seen[piece.place] = name, data[piece.offset : piece.offset + piece.length]
        regions = tuple((region.address, region.bytes) for region in cut.regions)
        return FileEntry(size, tuple(zip(names, cut.lengths, strict=True)), regions)

    def _take_pieces(
        self,
        mapped: mmap.mmap,
        data: memoryview,
        before: Mapping[Place, str],
        pieces: Sequence[_Piece],
    ) -> list[str]:
        first, last = pieces[0], pieces[-1]
        start = first.offset - first.offset % mmap.PAGESIZE
        with suppress(OSError):  # a kernel before 5.14; it only takes longer
            mapped.madvise(_POPULATE_READ, start, last.offset + last.length - start)
        return [self._take_piece(data, before, piece) for piece in pieces]

    def _take_piece(self, whole: memoryview, before: Mapping[Place, str], piece: _Piece) -> str:
        vault = self.door.vault
        with whole[piece.offset : piece.offset + piece.length] as data:
            digest = vault.name(data)
            if digest == _name_of_zeros(vault, piece.length):
                return ZEROS
            with self._lock:
                if (name := self._names.get(digest)) is not None:
                    return name
            self.door.mark.renew()
            former = before.get(piece.place) if piece.place is not None else None
            name, packed = self._kept(digest, former), b""
            if name is None:
                name, packed = self._packed(digest, data, piece.place, former)
                self.door.stage.put(chunk_name(name), packed)
            with self._lock:
                if digest not in self._names:
                    self.new_bytes += len(packed)
                return self._names.setdefault(digest, name)

    def _kept(self, digest: str, former: str | None) -> str | None:
        """How the store has it: as this rank had it there before, or by itself."""
        has = self.door.blobs.has
        if former is not None and plain(former) == digest:
            links = [former, *chain(former, self._over)]
            if all(has(chunk_name(link)) for link in links):
                return former
        return digest if has(chunk_name(digest)) else None

    def _packed(
        self, digest: str, data: memoryview, place: Place | None, former: str | None
    ) -> tuple[str, bytes]:
        """A name, and what to store under it."""
        vault, base = self.door.vault, self._base(place, former)
        if base is not None:
            under, raw = base
            name = patch_name(digest, under)
            patch = vault.pack(name, data, raw)
            if len(patch) * _SURELY_SMALL > len(data):
                alone = vault.pack(digest, data)
                if len(patch) > _WORTH_IT * len(alone):
                    return digest, alone
            with self._lock:
                self._over[name] = under
            return name, patch
        return digest, vault.pack(digest, data)

    def _base(
        self, place: Place | None, former: str | None
    ) -> tuple[str, bytes | memoryview] | None:
        """A chunk that is much like what lies at `place`: its name, and its bytes."""
        if place is None:
            return None
        if former is not None:
            while self._depth(former) >= _DEEPEST:
                former = self._over[former]
            with suppress(OSError, ImageCorrupt):  # then there is none
                return former, self._read(former, place[1])
        if self._first is not None and (there := self._first.get(place)) is not None:
            return there if self._depth(there[0]) < _DEEPEST else None
        return None

    def _depth(self, name: str) -> int:
        return len(chain(name, self._over))

    def _read(self, name: str, length: int) -> bytes:
        """From its place and nowhere else: there our mark protects it. Raises OSError."""
        base = self._read(self._over[name], length) if name in self._over else None
        packed = self.door.blobs.get(chunk_name(name))
        return self.door.vault.unpack(name, packed, length, base)


def _pieces(cut: FileCut) -> Iterator[_Piece]:
    offset = 0
    starts: Iterable[int | None] = addresses(cut.regions, cut.lengths)
    if not cut.regions:
        starts = [None] * len(cut.lengths)
    for length, address in zip(cut.lengths, starts, strict=True):
        place = None
        if address is not None and length <= MEMORY_CHUNK_BYTES:
            place = address, length
        yield _Piece(offset, length, place)
        offset += length


def _together(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    for piece in pieces:
        if group and piece.offset + piece.length - group[0].offset > _TOGETHER_BYTES:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def side_by_side(
    pool: ThreadPoolExecutor,
    workers: int,
    do: Callable[[_Item], _Result],
    items: Iterable[_Item],
) -> list[_Result]:
    """`do` for every item, in order, only a few items ahead of what is done. When it raises,
    nothing is still being done on return: what the items refer to may be closed."""
    futures: list[Future[_Result]] = []
    going: set[Future[_Result]] = set()
    try:
        for item in items:
            if len(going) >= workers * _AHEAD:
                done, going = wait(going, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
            futures.append(pool.submit(do, item))
            going.add(futures[-1])
        return [future.result() for future in futures]
    finally:
        for future in going:
            future.cancel()
        wait(futures)


@lru_cache(maxsize=1024)
def _name_of_zeros(vault: Vault, length: int) -> str:
    return vault.name(bytes(length))
