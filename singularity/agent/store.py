"""Keeps rank images in a directory that all nodes share: chunks by content, manifests by name.

    chunks/ab/cdef...                            zstd of the bytes whose blake3 is abcdef...
    manifests/<job>/<incarnation>-<cut>/<node>.json   what one node saved for one cut
    manifests/<job>/fence                        no incarnation older than this may write
    incoming/<save>/, trash/                     on the way in, on the way out

A chunk gets its name only after its bytes are on the disk, and a manifest its own only after all
its chunks are: whatever has a name is whole, and a save that is interrupted leaves only litter.
In a manifest a chunk is [digest, bytes]; the digest of a chunk of zeros is "", and it has no file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import zstandard
from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from singularity.primitives.errors import (
    CheckpointFailed,
    ImageCorrupt,
    RestoreFailed,
    StaleIncarnation,
    StoreFull,
)
from singularity.primitives.model import JobId, NodeId, ShardImage

from .chunking import Tensor
from .intake import ZEROS, FileEntry, Intake, side_by_side

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class ImageKey:
    """Names what one node saves for one cut of one life of a job."""

    job: JobId
    incarnation: int
    cut: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class RankImages:
    """One rank as dumped into the directory `path`. `files` are its output files with their
    sizes; `tensors` (address, bytes) tell where its weights lie, and save space."""

    path: Path
    files: Mapping[str, int] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()


class Store(Protocol):
    """Whatever is found in it was once saved in full, and is what was saved."""

    def save(self, key: ImageKey, step: int, ranks: Mapping[int, RankImages]) -> ShardImage:
        """Durable on return. Raises StaleIncarnation, StoreFull or CheckpointFailed: nothing of
        it can be found then. Saving the same key again replaces it."""

    def find(self, key: ImageKey) -> ShardImage | None:
        """What was saved under `key`, if anything was."""

    def load(self, key: ImageKey, digest: str, rank: int, target: Path) -> Mapping[str, int]:
        """Write the rank's images to `target`, every byte verified; its output files' sizes.

        `digest` is what `save` gave. Raises ImageCorrupt: `target` does not exist then.
        """

    def fence(self, job: JobId, incarnation: int) -> None:
        """From now on only `incarnation` and later ones may save. Never lowered."""

    def drop(self, job: JobId, incarnation: int, cut: int) -> None:
        """Forget a cut, on all nodes. Its chunks go with the next sweep. Idempotent."""

    def sweep(self, min_age_s: float) -> int:
        """Delete chunks that no manifest needs; how many. `min_age_s` is longer than any save."""


@dataclass(frozen=True, slots=True)
class RankEntry:
    files: Mapping[str, FileEntry]
    outputs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    key: ImageKey
    step: int
    raw_bytes: int
    new_bytes: int
    ranks: Mapping[int, RankEntry]


_MANIFEST = TypeAdapter(Manifest)


class FileStore:
    """The store as a directory; several processes, on several machines, may share it."""

    def __init__(self, root: Path) -> None:
        self._chunks, self._manifests = root / "chunks", root / "manifests"
        self._incoming, self._trash = root / "incoming", root / "trash"
        for path in (self._chunks, self._manifests, self._incoming, self._trash):
            path.mkdir(parents=True, exist_ok=True)

    # -- in ----------------------------------------------------------------------------------

    def save(self, key: ImageKey, step: int, ranks: Mapping[int, RankImages]) -> ShardImage:
        self._check_fence(key)
        draft = self._incoming / uuid.uuid4().hex
        try:
            draft.mkdir()
            return self._save(key, step, ranks, draft)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(f"no room for cut {key.cut} of {key.job}: {error}") from error
            raise CheckpointFailed(f"the images cannot be stored: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _save(
        self, key: ImageKey, step: int, ranks: Mapping[int, RankImages], draft: Path
    ) -> ShardImage:
        with ThreadPoolExecutor(_WORKERS) as pool:
            intake = Intake(self._chunk, draft, pool)
            saved = {
                rank: RankEntry(intake.take(images.path, images.tensors), images.files)
                for rank, images in sorted(ranks.items())
            }
        intake.settle(self._put_back)
        manifest = Manifest(key, step, intake.raw_bytes, intake.new_bytes, saved)
        data = _MANIFEST.dump_json(manifest)
        path = self._manifest(key)
        self._make(path.parent)
        _write(draft / "manifest", data)
        self._check_fence(key)
        (draft / "manifest").replace(path)
        _sync_directory(path.parent)
        return _shard(manifest, data)

    def _check_fence(self, key: ImageKey) -> None:
        if key.incarnation < (least := self._fence_of(key.job)):
            detail = f"life {key.incarnation} of {key.job} may not save: life {least} has begun"
            raise StaleIncarnation(detail, job=key.job, incarnation=key.incarnation, fence=least)

    # -- out ---------------------------------------------------------------------------------

    def find(self, key: ImageKey) -> ShardImage | None:
        try:
            data = self._manifest(key).read_bytes()
            return _shard(_MANIFEST.validate_json(data), data)
        except (FileNotFoundError, ValidationError):
            return None

    def load(self, key: ImageKey, digest: str, rank: int, target: Path) -> Mapping[str, int]:
        found = self._verified(key, digest).ranks.get(rank)
        if found is None:
            raise ImageCorrupt(f"{self._manifest(key)} does not hold rank {rank}")
        target.mkdir(parents=True, exist_ok=True)
        try:
            with ThreadPoolExecutor(_WORKERS) as pool:
                for name, file in found.files.items():
                    self._restore_file(file, target / Path(name).name, pool)
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            failure = StoreFull if error.errno in _FULL else RestoreFailed
            raise failure(f"cannot fetch {key.job} to {target}: {error}") from error
        except ImageCorrupt:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return found.outputs

    def _verified(self, key: ImageKey, digest: str) -> Manifest:
        path = self._manifest(key)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageCorrupt(f"the manifest cannot be read: {error}") from error
        if blake3(data).hexdigest() != digest:
            raise ImageCorrupt(f"the manifest {path} is not the one that was saved")
        return _MANIFEST.validate_json(data)

    def _restore_file(self, file: FileEntry, target: Path, pool: ThreadPoolExecutor) -> None:
        with target.open("wb") as out:
            out.truncate(file.bytes)  # chunks of zeros stay holes
            offset, work = 0, []
            for digest, length in file.chunks:
                if digest != ZEROS:
                    work.append((out.fileno(), digest, length, offset))
                offset += length
            side_by_side(pool, self._restore_chunk, work)

    def _restore_chunk(self, work: tuple[int, str, int, int]) -> None:
        out, digest, length, offset = work
        try:
            packed = self._read(digest)
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=length)
        except (OSError, zstandard.ZstdError) as error:
            raise ImageCorrupt(f"chunk {digest} cannot be read: {error}", chunk=digest) from error
        if len(data) != length or blake3(data).hexdigest() != digest:
            raise ImageCorrupt(f"chunk {digest} is damaged", chunk=digest)
        _write_at(out, data, offset)

    def _read(self, digest: str) -> bytes:
        """From wherever it is: a sweep may be about to put it back where it belongs."""
        for path in (self._chunk(digest), self._trash / digest):
            with suppress(FileNotFoundError):
                return path.read_bytes()
        return self._chunk(digest).read_bytes()

    def _put_back(self, digest: str) -> bool:
        """Undo what a sweep did to a chunk that a save has come to need; whether it is there."""
        home = self._chunk(digest)
        if not home.exists():
            with suppress(FileNotFoundError):
                (self._trash / digest).replace(home)
        return home.exists()

    # -- upkeep ------------------------------------------------------------------------------

    def fence(self, job: JobId, incarnation: int) -> None:
        directory = self._manifests / job
        self._make(directory)
        with _locked(directory / "fence.lock"):
            if self._fence_of(job) >= incarnation:
                return
            _write(directory / ".fence", str(incarnation).encode())
            (directory / ".fence").replace(directory / "fence")
            _sync_directory(directory)

    def drop(self, job: JobId, incarnation: int, cut: int) -> None:
        shutil.rmtree(self._manifests / job / f"{incarnation}-{cut}", ignore_errors=True)

    def sweep(self, min_age_s: float) -> int:
        """Chunks leave by way of the trash, because a save may come to rely on one at any moment.

        A save touches each chunk it finds, and when all are written puts back those that are not
        where they were. A chunk that was moved too early is seen to be young, or needed, on the
        second look here, and put back as well; until then it is read from the trash.
        """
        with _locked(self._trash / ".lock"):
            oldest_s = self._now_s() - min_age_s
            for litter in _inside(self._incoming):
                if _is_older(litter, oldest_s):
                    shutil.rmtree(litter, ignore_errors=True)
            needed = self._needed()
            for path in (path for home in _inside(self._chunks) for path in _inside(home)):
                digest = path.parent.name + path.name
                if digest not in needed and _is_older(path, oldest_s):
                    with suppress(FileNotFoundError):
                        path.replace(self._trash / digest)
            return self._empty_trash(oldest_s)

    def _empty_trash(self, oldest_s: float) -> int:
        """Of this sweep, and of an earlier one that was interrupted."""
        needed, deleted = self._needed(), 0
        for path in _inside(self._trash):
            home = self._chunk(path.name)
            with suppress(FileNotFoundError):  # a save has just put it back itself
                if home.exists() or (path.name not in needed and _is_older(path, oldest_s)):
                    path.unlink()
                    deleted += 1
                else:
                    path.replace(home)
        return deleted

    def _needed(self) -> set[str]:
        found: set[str] = set()
        cuts = (cut for job in _inside(self._manifests) for cut in _inside(job))
        for path in (path for cut in cuts for path in _inside(cut)):
            with suppress(FileNotFoundError, ValidationError):  # dropped, or damaged: of no use
                manifest = _MANIFEST.validate_json(path.read_bytes())
                for rank in manifest.ranks.values():
                    for file in rank.files.values():
                        found.update(digest for digest, _ in file.chunks)
        return found

    def _now_s(self) -> float:
        """By the clock that dates the chunks: the file server's, not this machine's."""
        mark = self._trash / ".now"
        mark.touch()
        return mark.stat().st_mtime

    # -- names -------------------------------------------------------------------------------

    def _chunk(self, digest: str) -> Path:
        return self._chunks / digest[:2] / digest[2:]

    def _manifest(self, key: ImageKey) -> Path:
        return self._manifests / key.job / f"{key.incarnation}-{key.cut}" / f"{key.node}.json"

    def _fence_of(self, job: JobId) -> int:
        try:
            return int((self._manifests / job / "fence").read_text())
        except FileNotFoundError:
            return 0

    def _make(self, directory: Path) -> None:
        """With its name on the disk as well."""
        if not directory.exists():
            self._make(directory.parent)
            directory.mkdir(exist_ok=True)
            _sync_directory(directory.parent)


def _shard(manifest: Manifest, data: bytes) -> ShardImage:
    return ShardImage(
        node=manifest.key.node,
        ranks=tuple(sorted(manifest.ranks)),
        digest=blake3(data).hexdigest(),
        step=manifest.step,
        raw_bytes=manifest.raw_bytes,
        new_bytes=manifest.new_bytes,
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_at(file: int, data: bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _inside(directory: Path) -> list[Path]:
    """What is in it, hidden files apart; nothing when it is none, or has just been removed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in directory.iterdir() if not path.name.startswith(".")]
    return []


def _is_older(path: Path, than_s: float) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime < than_s
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
