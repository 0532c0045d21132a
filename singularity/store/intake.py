"""The way of images into the store: cut, named, packed where new.

Most of what comes in is known: another rank of the save has the same at the same address, or this
rank had it there at the cut before. Where that is at hand in memory it is compared, which is faster
than to name it by its digest. What the store lacks is then most often what lay there, with some
words changed, and is stored as a patch over that. The names tell: a patch is `<digest>-<of its
base>`.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

from singularity.primitives.errors import ImageCorrupt

from .blobs import Blobs, Bytes, Stage
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
from .memory import mapped, same
from .vault import Vault

_AHEAD: Final = 4  # items a worker, so that nobody waits and memory stays bounded
_TOGETHER_BYTES: Final = 4 << 20  # of an image file, worked off by one thread at a time
_DEEPEST: Final = 4  # patches over each other: each makes a load take longer
_DEEPEST_READ: Final = 2  # over what has to be read first, patch by patch
_INLINE_MOST_BYTES: Final = 1024  # a smaller patch is not worth a blob of its own
_SURELY_SMALL: Final = 8  # a patch that is this many times smaller is not compared to anything
_WORTH_IT: Final = 0.7  # of the chunk packed by itself: more, and the chunk stands alone

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
class Former:
    """What lay in a place: how it is stored, and its bytes where they are at hand."""

    name: str
    raw: memoryview | None = None


Memory = Mapping[Place, Former]


@dataclass(frozen=True, slots=True)
class Past:
    """Chunks of earlier cuts: of each rank by their place, which lie over which, and those that
    are in the manifests themselves."""

    ranks: Mapping[int, Memory] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
    inline: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk to be: `length` bytes of an image file, from `offset` on. `place` is where in
    memory, if it is memory."""

    offset: int
    length: int
    place: Place | None


class Intake:
    """One save. `raw_bytes` were taken, `new_bytes` of them had to be written, packed. `past` is
    read while ranks are still being dumped."""

    def __init__(self, door: Door, pool: ThreadPoolExecutor, past: Future[Past]) -> None:
        self.door, self._pool, self._reading = door, pool, past
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._past: Past | None = None
        self._names: dict[str, str] = {}  # digest -> how it is stored
        self._over: dict[str, str] = {}
        self._inline: dict[str, str] = {}
        self._seen: set[str] = set()  # in the store
        self._first: Memory | None = None
        self.raw_bytes = self.new_bytes = 0

    def take(self, rank: int, images: Path, tensors: Sequence[Tensor]) -> dict[str, FileEntry]:
        """Every file of one rank, cut into chunks; those that the store lacks are put there. One
        rank at a time, whoever calls; `images` may be removed when this returns."""
        with self._turn:
            if self._past is None:
                self._past = self._reading.result()
                self._over, self._inline = dict(self._past.bases), dict(self._past.inline)
            cuts = cut_rank(images, worth_cutting(tensors))
            before = self._past.ranks.get(rank, {})
            seen: dict[Place, Former] = {}
            found = {n: self._file(images / n, cut, before, seen) for n, cut in cuts.items()}
            if self._first is None:
                self._first = seen
            return found

    def bases(self, files: Iterable[FileEntry]) -> dict[str, str]:
        """Of every patch in `files`, and of their bases."""
        names = (name for file in files for name, _ in file.chunks)
        return closure(names, self._over)

    def inline(self, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that belong into the manifest."""
        return {name: self._inline[name] for name in names if name in self._inline}

    def _file(
        self, path: Path, cut: FileCut, before: Memory, seen: dict[Place, Former]
    ) -> FileEntry:
        size = sum(cut.lengths)
        self.raw_bytes += size
        if size == 0:
            return FileEntry(0, ())
        data = memoryview(mapped(path, size))  # unmapped when nobody holds a part of it any more
        pieces = list(_pieces(cut))
        work = partial(self._take_pieces, data, before)
        groups = side_by_side(self._pool, self.door.blobs.workers, work, _together(pieces))
        names = [name for group in groups for name in group]
        for piece, name in zip(pieces, names, strict=True):
            if self._first is None and piece.place is not None and name != ZEROS:
                raw = data[piece.offset : piece.offset + piece.length]
                seen[piece.place] = Former(name, raw)
        regions = tuple((region.address, region.bytes) for region in cut.regions)
        return FileEntry(size, tuple(zip(names, cut.lengths, strict=True)), regions)

    def _take_pieces(self, data: memoryview, before: Memory, pieces: Sequence[_Piece]) -> list[str]:
        self.door.mark.renew()
        return [self._take_piece(data, before, piece) for piece in pieces]

    def _take_piece(self, whole: memoryview, before: Memory, piece: _Piece) -> str:
        vault, former, other = self.door.vault, None, None
        if piece.place is not None:
            former = before.get(piece.place)
            other = self._first.get(piece.place) if self._first is not None else None
        with whole[piece.offset : piece.offset + piece.length] as data:
            if former is not None and same(data, former.raw) and self._stands(former.name):
                with self._lock:
                    return self._names.setdefault(plain(former.name), former.name)
            if other is not None and same(data, other.raw):
                return other.name
            digest = vault.name(data)
            if digest == _name_of_zeros(vault, piece.length):
                return ZEROS
            with self._lock:
                if (name := self._names.get(digest)) is not None:
                    return name
            name, packed = self._kept(digest, former), b""
            if name is None:
                base = self._base(piece.length, former, other)
                name, packed = self._packed(digest, data, base)
                self._put(name, packed)
            with self._lock:
                if digest not in self._names:
                    self.new_bytes += len(packed)
                return self._names.setdefault(digest, name)

    def _kept(self, digest: str, former: Former | None) -> str | None:
        """How the store has it: as this rank had it there before, or by itself."""
        if former is not None and plain(former.name) == digest and self._stands(former.name):
            return former.name
        return digest if self._stands(digest) else None

    def _stands(self, name: str) -> bool:
        """Is it in the store, with all that it lies over?"""
        return all(self._has(link) for link in (name, *chain(name, self._over)))

    def _has(self, name: str) -> bool:
        """Once seen where it belongs, a sweep leaves it there until our mark is gone."""
        if name in self._inline or name in self._seen:
            return True
        if found := self.door.blobs.has(chunk_name(name)):
            self._seen.add(name)
        return found

    def _put(self, name: str, packed: bytes) -> None:
        if name in self._over and len(packed) <= _INLINE_MOST_BYTES:
            with self._lock:
                self._inline[name] = base64.b64encode(packed).decode()
        else:
            self.door.stage.put(chunk_name(name), packed)

    def _packed(
        self, digest: str, data: memoryview, base: tuple[str, Bytes] | None
    ) -> tuple[str, bytes]:
        """A name, and what to store under it."""
        vault = self.door.vault
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
        self, length: int, former: Former | None, other: Former | None
    ) -> tuple[str, Bytes] | None:
        """A chunk that is much like what is to be stored: its name, and its bytes."""
        if length > MEMORY_CHUNK_BYTES:
            return None  # of a large tensor, all of which changes if anything does
        if former is not None:
            name, raw = former.name, former.raw
            if raw is not None and self._depth(name) < _DEEPEST and self._stands(name):
                return name, raw
            while self._depth(name) >= _DEEPEST_READ:
                name = self._over[name]
            with suppress(OSError, ImageCorrupt):  # then there is none
                return name, self._read(name, length)
        if other is not None and other.raw is not None and self._depth(other.name) < _DEEPEST:
            return other.name, other.raw
        return None

    def _depth(self, name: str) -> int:
        return len(chain(name, self._over))

    def _read(self, name: str, length: int) -> Bytes:
        """From its place and nowhere else: there our mark protects it. Raises OSError."""
        base = self._read(self._over[name], length) if name in self._over else None
        inline = self._inline.get(name)
        packed = base64.b64decode(inline) if inline else self.door.blobs.get(chunk_name(name))
        return self.door.vault.unpack(name, packed, length, base)


def _pieces(cut: FileCut) -> Iterator[_Piece]:
    offset = 0
    starts: Iterable[int | None] = addresses(cut.regions, cut.lengths)
    if not cut.regions:
        starts = [None] * len(cut.lengths)
    for length, address in zip(cut.lengths, starts, strict=True):
        yield _Piece(offset, length, None if address is None else (address, length))
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
