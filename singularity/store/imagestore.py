"""Keeps rank images: chunks by content, manifests by name.

A manifest is written only after all its chunks are durable: whatever can be found is whole, and a
save that is interrupted leaves only chunks, which the next save need not write again.
"""

from __future__ import annotations

import base64
import errno
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from singularity.primitives.errors import (
    CheckpointFailed,
    ImageCorrupt,
    RestoreFailed,
    StaleIncarnation,
    StoreFull,
)
from singularity.primitives.model import JobId, ShardImage

from .blobs import Blobs, Bytes
from .chunking import Tensor
from .fetch import AtHand, Read, fetch
from .intake import Door, Former, Intake, Past
from .manifest import (
    MANIFESTS,
    ImageKey,
    Manifest,
    Place,
    RankEntry,
    chain,
    chunk_bytes,
    cut_name,
    image_of,
    key_of,
    manifest_name,
    plain,
    read,
    write,
)
from .marks import marked
from .memory import mapped
from .vault import Vault

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FENCES: Final = "fences"


@dataclass(frozen=True, slots=True)
class RankImages:
    """One rank as dumped into the directory `path`. `files` are its output files with their
    sizes; `tensors` (address, bytes) tell where its weights lie, and save space."""

    path: Path
    files: Mapping[str, int] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """What `key` holds of one rank, as files in the directory `path`: they were dumped for it, or
    fetched from it, and nobody has changed them. `digest` is what the commit gave."""

    key: ImageKey
    digest: str
    path: Path


Copies = Mapping[int, Copy]


class Saving(Protocol):
    """One save under way. `take` may be called from several threads, each rank once."""

    def take(self, rank: int, images: RankImages) -> None:
        """Store what is new of it; `images.path` may be removed on return."""

    def commit(self, step: int) -> ShardImage:
        """What was taken is a checkpoint now, and durable."""


class Store(Protocol):
    """Whatever is found in it was once saved in full, and is what was saved. `vault` is that of the
    life that saves, or of the one that reads; both are of one project."""

    def saving(
        self, key: ImageKey, vault: Vault, copies: Copies | None = None
    ) -> AbstractContextManager[Saving]:
        """Nothing of it can be found before it is committed; saving the same key again replaces
        it. `copies` of ranks at an earlier cut, where they are at hand, save most of the work.
        Leaving the context raises StaleIncarnation, StoreFull or CheckpointFailed for what the
        store refused."""

    def find(self, key: ImageKey, vault: Vault) -> ShardImage | None:
        """What was saved under `key`, if anything was; not what somebody else put there."""

    def load(
        self,
        key: ImageKey,
        digest: str,
        targets: Mapping[int, Path],
        vault: Vault,
        near: Iterable[Copies] = (),
    ) -> Mapping[int, Mapping[str, int]]:
        """Write the images of each rank to its directory in `targets`, every byte verified that
        comes out of the store; the sizes of the ranks' output files. What `near` has of it, of
        whatever rank, cut or job of the project, is not read but copied.

        `digest` is what the commit gave. Raises ImageCorrupt, ImageForged, StoreFull or
        RestoreFailed: none of the directories exists then.
        """

    def whole(self, copies: Copies, vault: Vault) -> frozenset[int]:
        """The ranks of which all files are there, of a checkpoint that is still in the store; by
        its manifest and their sizes."""

    def fence(self, job: JobId, incarnation: int) -> None:
        """From now on only `incarnation` and later ones may save. Never lowered."""

    def drop(self, job: JobId, incarnation: int, cut: int) -> None:
        """Forget a cut, on all nodes. Its chunks go with the next sweep. Idempotent."""


class ImageStore:
    """The store over any Blobs; any number of processes may share it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    # -- in ----------------------------------------------------------------------------------

    @contextmanager
    def saving(
        self, key: ImageKey, vault: Vault, copies: Copies | None = None
    ) -> Iterator[_Saving]:
        blobs = self._blobs
        try:
            self._check_fence(key)
            with (
                marked(blobs) as mark,
                blobs.stage() as stage,
                ThreadPoolExecutor(blobs.workers) as pool,
            ):
                past = pool.submit(self._past, key, vault, copies or {})
                yield _Saving(self, key, Intake(Door(blobs, stage, mark, vault), pool, past))
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(f"no room for cut {key.cut} of {key.job}: {error}") from error
            raise CheckpointFailed(f"the images cannot be stored: {error}") from error

    def save(
        self,
        key: ImageKey,
        step: int,
        ranks: Mapping[int, RankImages],
        vault: Vault,
        copies: Copies | None = None,
    ) -> ShardImage:
        """All at once."""
        with self.saving(key, vault, copies) as saving:
            for rank, images in sorted(ranks.items()):
                saving.take(rank, images)
            return saving.commit(step)

    def _past(self, key: ImageKey, vault: Vault, copies: Copies) -> Past:
        """What can be read of: the copies' cuts; without any, of the last cut before this one."""
        found = [(copy.key, copy.digest) for copy in copies.values()]
        manifests = [self._readable(*known, vault) for known in dict.fromkeys(found)]
        if not copies:
            cuts: dict[tuple[int, int], list[ImageKey]] = {}
            for blob in self._blobs.list(f"{MANIFESTS}/{key.job}"):
                if (earlier := key_of(blob.name)) is not None and earlier.cut < key.cut:
                    cuts.setdefault((earlier.cut, earlier.incarnation), []).append(earlier)
            last = cuts[max(cuts)] if cuts else ()
            manifests = [self._readable(earlier, None, vault) for earlier in last]
        ranks: dict[int, Mapping[Place, Former]] = {}
        bases: dict[str, str] = {}
        inline: dict[str, str] = {}
        for manifest in (m for m in manifests if m is not None):
            for rank in manifest.ranks:
                copy = copies.get(rank)
                ours = copy is not None and copy.key == manifest.key
                ranks[rank] = _formers(manifest, rank, copy.path if copy and ours else None)
            bases |= manifest.bases
            inline |= manifest.inline
        return Past(ranks, bases, inline)

    def _readable(self, key: ImageKey, digest: str | None, vault: Vault) -> Manifest | None:
        with suppress(OSError, ImageCorrupt):
            if digest is not None:
                return self.manifest(key, digest, vault)
            return read(key, self._blobs.get(manifest_name(key)), vault)
        return None

    def commit(
        self, key: ImageKey, step: int, ranks: Mapping[int, RankEntry], intake: Intake
    ) -> ShardImage:
        """Used by `saving`."""
        door = intake.door
        door.stage.settle()
        bases = intake.bases(file for rank in ranks.values() for file in rank.files.values())
        found = Manifest(key, step, intake.raw_bytes, intake.new_bytes, dict(ranks), bases)
        found = replace(found, inline=intake.inline(found.needed()))
        stored = write(found, door.vault)
        self._check_fence(key)
        door.mark.check()
        self._blobs.put(manifest_name(key), stored)
        return image_of(found, stored)

    def _check_fence(self, key: ImageKey) -> None:
        if key.incarnation < (least := self._fence_of(key.job)):
            detail = f"life {key.incarnation} of {key.job} may not save: life {least} has begun"
            raise StaleIncarnation(detail, job=key.job, incarnation=key.incarnation, fence=least)

    # -- out ---------------------------------------------------------------------------------

    def find(self, key: ImageKey, vault: Vault) -> ShardImage | None:
        try:
            stored = self._blobs.get(manifest_name(key))
            return image_of(read(key, stored, vault), stored)
        except (OSError, ImageCorrupt):
            return None

    def manifest(self, key: ImageKey, digest: str, vault: Vault) -> Manifest:
        """The one that the commit answered with `digest`. Raises ImageCorrupt or ImageForged."""
        name = manifest_name(key)
        try:
            stored = self._blobs.get(name)
        except OSError as error:
            raise ImageCorrupt(f"the manifest {name} cannot be read: {error}") from error
        found = read(key, stored, vault)
        if blake3(stored).hexdigest() != digest:
            raise ImageCorrupt(f"the manifest {name} is not the one that was saved")
        return found

    def reader(self, vault: Vault, inline: Mapping[str, str]) -> Read:
        """Chunks of manifests that hold `inline`. What it returns raises ImageCorrupt."""

        def read(name: str, length: int, base: Bytes | None) -> Bytes:
            if name in inline:
                return vault.unpack(name, base64.b64decode(inline[name]), length, base)
            return vault.unpack(name, self._chunk(name), length, base)

        return read

    def _chunk(self, name: str) -> bytes:
        try:
            return chunk_bytes(self._blobs, name)
        except OSError as error:
            raise ImageCorrupt(f"chunk {name} cannot be read: {error}", chunk=name) from error

    def load(
        self,
        key: ImageKey,
        digest: str,
        targets: Mapping[int, Path],
        vault: Vault,
        near: Iterable[Copies] = (),
    ) -> Mapping[int, Mapping[str, int]]:
        manifest = self.manifest(key, digest, vault)
        if missing := sorted(targets.keys() - manifest.ranks.keys()):
            raise ImageCorrupt(f"{manifest_name(key)} does not hold ranks {missing}")
        chunk = self.reader(vault, manifest.inline)
        try:
            at_hand = self._at_hand(manifest, targets, near, vault)
            fetch(manifest, targets, chunk, at_hand, self._blobs.workers)
        except (OSError, ImageCorrupt) as error:
            for target in targets.values():
                shutil.rmtree(target, ignore_errors=True)
            if isinstance(error, ImageCorrupt):
                raise
            failure = StoreFull if error.errno in _FULL else RestoreFailed
            raise failure(f"cannot fetch {key.job}: {error}") from error
        return {rank: manifest.ranks[rank].outputs for rank in targets}

    def _at_hand(
        self, manifest: Manifest, ranks: Iterable[int], near: Iterable[Copies], vault: Vault
    ) -> AtHand:
        """Chunks that `ranks` need, or that those lie over, and that lie in `near`."""
        files = (file for rank in ranks for file in manifest.ranks[rank].files.values())
        needed = {name for file in files if file.regions for name, _ in file.chunks}
        under = (base for name in needed for base in chain(name, manifest.bases))
        wanted = {plain(name) for name in (*needed, *under)}
        found: dict[str, memoryview] = {}
        for copies in near:
            for known in dict.fromkeys((copy.key, copy.digest) for copy in copies.values()):
                if len(found) == len(wanted):
                    return found
                if (former := self._readable(*known, vault)) is not None:
                    found |= {n: raw for n, raw in _memory(former, copies) if n in wanted}
        return found

    def whole(self, copies: Copies, vault: Vault) -> frozenset[int]:
        known = dict.fromkeys((copy.key, copy.digest) for copy in copies.values())
        manifests = {key: self._readable(key, digest, vault) for key, digest in known}
        return frozenset(r for r, copy in copies.items() if _whole(manifests[copy.key], r, copy))

    # -- upkeep ------------------------------------------------------------------------------

    def fence(self, job: JobId, incarnation: int) -> None:
        """Fences are only added, and the highest counts: two nodes can then not undo each other."""
        try:
            if self._fence_of(job) < incarnation:
                self._blobs.put(f"{_FENCES}/{job}/{incarnation}", b"")
        except OSError as error:
            raise RestoreFailed(f"the store does not take a fence: {error}") from error

    def drop(self, job: JobId, incarnation: int, cut: int) -> None:
        for blob in list(self._blobs.list(cut_name(job, incarnation, cut))):
            self._blobs.delete(blob.name)

    def forget(self, job: JobId) -> None:
        """Drop every cut of a job that has ended, and its fences."""
        for prefix in (f"manifests/{job}", f"{_FENCES}/{job}"):
            for blob in list(self._blobs.list(prefix)):
                self._blobs.delete(blob.name)

    def _fence_of(self, job: JobId) -> int:
        names = (blob.name.rpartition("/")[2] for blob in self._blobs.list(f"{_FENCES}/{job}"))
        return max((int(name) for name in names if name.isdecimal()), default=0)


def _formers(manifest: Manifest, rank: int, path: Path | None) -> dict[Place, Former]:
    """What the rank had in each place; with its bytes, if its files lie at `path`."""
    files: dict[str, memoryview] = {}
    if path is not None:
        for name, file in manifest.ranks[rank].files.items():
            with suppress(OSError, ValueError):  # then it is not at hand
                if file.regions:
                    files[name] = memoryview(mapped(path / Path(name).name, file.bytes))
    found = {}
    for place, name, file_name, offset in manifest.places(rank):
        whole = files.get(file_name)
        raw = whole[offset : offset + place[1]] if whole is not None else None
        found[place] = Former(name, raw)
    return found


def _memory(manifest: Manifest, copies: Copies) -> Iterator[tuple[str, memoryview]]:
    """Digest and bytes of each chunk of memory that lies in those of `copies` that are of it."""
    for rank, copy in copies.items():
        if copy.key == manifest.key and rank in manifest.ranks:
            for former in _formers(manifest, rank, copy.path).values():
                if former.raw is not None:
                    yield plain(former.name), former.raw


def _whole(manifest: Manifest | None, rank: int, copy: Copy) -> bool:
    if manifest is None or rank not in manifest.ranks:
        return False
    files = manifest.ranks[rank].files
    try:
        return all((copy.path / n).stat().st_size == file.bytes for n, file in files.items())
    except OSError:
        return False


class _Saving:
    def __init__(self, store: ImageStore, key: ImageKey, intake: Intake) -> None:
        self._store, self._key, self._intake = store, key, intake
        self._ranks: dict[int, RankEntry] = {}

    def take(self, rank: int, images: RankImages) -> None:
        files = self._intake.take(rank, images.path, images.tensors)
        self._ranks[rank] = RankEntry(files, images.files)

    def commit(self, step: int) -> ShardImage:
        return self._store.commit(self._key, step, self._ranks, self._intake)
