"""The way of images into the store: cut, hashed, compressed where new, made durable, named."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final, TypeVar

import zstandard
from blake3 import blake3

from singularity.primitives.errors import CheckpointFailed

from .chunking import Tensor, cut_rank, worth_cutting

ZEROS: Final = ""  # stands for the digest of a chunk that holds nothing but zeros
_LEVEL: Final = 1  # of zstd: as fast as the hash; higher levels gain a few per cent
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One image file: its size, and digest and length of each chunk in order."""

    bytes: int
    chunks: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk to be: `length` bytes of an image file, from `offset` on."""

    data: memoryview
    offset: int
    length: int


class Intake:
    """One save: cuts images, writes what is new to `draft`, and finally gives it its names."""

    def __init__(self, chunk: Callable[[str], Path], draft: Path, pool: ThreadPoolExecutor) -> None:
        self._chunk, self._draft, self._pool = chunk, draft, pool
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._new: set[str] = set()
        self.raw_bytes = self.new_bytes = 0

    def take(self, images: Path, tensors: Sequence[Tensor]) -> dict[str, FileEntry]:
        """Every file of one rank, cut into chunks; those that the store lacks are in `draft`."""
        cuts = cut_rank(images, worth_cutting(tensors))
        return {name: self._file(images / name, lengths) for name, lengths in cuts.items()}

    def settle(self, present: Callable[[str], bool]) -> None:
        """Make what was written durable, then give it its name, then make the names durable.

        `present` says of a chunk whether the store has it, and does what it can that it does.
        """
        sync_filesystem(self._draft)
        for digest in sorted(self._new):
            path = self._chunk(digest)
            path.parent.mkdir(exist_ok=True)
            (self._draft / digest).replace(path)
        if missing := [digest for digest in sorted(self._seen) if not present(digest)]:
            raise CheckpointFailed(f"{len(missing)} chunks were swept away meanwhile; try again")
        sync_filesystem(self._draft)

    def _file(self, path: Path, lengths: Sequence[int]) -> FileEntry:
        size = sum(lengths)
        self.raw_bytes += size
        if size == 0:
            return FileEntry(0, ())
        with (
            path.open("rb") as file,
            mmap(file.fileno(), size, access=ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            digests = side_by_side(self._pool, self._take_piece, _pieces(data, lengths))
        return FileEntry(size, tuple(zip(digests, lengths, strict=True)))

    def _take_piece(self, piece: _Piece) -> str:
        with piece.data[piece.offset : piece.offset + piece.length] as data:
            digest = blake3(data).hexdigest()
            if digest == _digest_of_zeros(piece.length):
                return ZEROS
            with self._lock:
                if digest in self._seen:
                    return digest
                self._seen.add(digest)
            if not self._there(digest):
                packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
                (self._draft / digest).write_bytes(packed)
                with self._lock:
                    self._new.add(digest)
                    self.new_bytes += len(packed)
        return digest

    def _there(self, digest: str) -> bool:
        """Whether the store has it; touched, so that a sweep takes it for young."""
        try:
            os.utime(self._chunk(digest))
        except FileNotFoundError:
            return False
        return True


def _pieces(data: memoryview, lengths: Sequence[int]) -> Iterator[_Piece]:
    offset = 0
    for length in lengths:
        yield _Piece(data, offset, length)
        offset += length


def side_by_side(
    pool: ThreadPoolExecutor, do: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """`do` for every item, in order. When it raises, nothing is still being done on return:
    what the items refer to may be closed."""
    futures = [pool.submit(do, item) for item in items]
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        future.cancel()
    wait(futures)
    for future in futures:
        if not future.cancelled() and (error := future.exception()):
            raise error
    return [future.result() for future in futures]


@lru_cache(maxsize=1024)
def _digest_of_zeros(length: int) -> str:
    return blake3(bytes(length)).hexdigest()


def sync_filesystem(path: Path) -> None:
    """One flush for everything on `path`'s filesystem, instead of one for each chunk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if _LIBC.syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(handle)
