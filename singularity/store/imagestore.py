"""Keeps rank images: chunks by content, manifests by name.

A manifest is written only after all its chunks are durable: whatever can be found is whole, and a
save that is interrupted leaves only chunks, which the next save need not write again.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
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

from .blobs import Blobs
from .chunking import Tensor
from .fetch import fetch
from .intake import Door, Intake, Past
from .manifest import (
    MANIFESTS,
    ImageKey,
    Manifest,
    Place,
    RankEntry,
    chunk_bytes,
    cut_name,
    image_of,
    key_of,
    manifest_name,
    read,
    write,
)
from .marks import marked
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


class Saving(Protocol):
    """One save under way. `take` may be called from several threads, each rank once."""

    def take(self, rank: int, images: RankImages) -> None:
        """Store what is new of it; `images.path` may be removed on return."""

    def commit(self, step: int) -> ShardImage:
        """What was taken is a checkpoint now, and durable."""


class Store(Protocol):
    """Whatever is found in it was once saved in full, and is what was saved. `vault` is that of the
    life that saves, or of the one that reads; both are of one project."""

    def saving(self, key: ImageKey, vault: Vault) -> AbstractContextManager[Saving]:
        """Nothing of it can be found before it is committed; saving the same key again replaces
        it. Leaving the context raises StaleIncarnation, StoreFull or CheckpointFailed for what the
        store refused."""

    def find(self, key: ImageKey, vault: Vault) -> ShardImage | None:
        """What was saved under `key`, if anything was; not what somebody else put there."""

    def load(
        self, key: ImageKey, digest: str, targets: Mapping[int, Path], vault: Vault
    ) -> Mapping[int, Mapping[str, int]]:
        """Write the images of each rank to its directory in `targets`, every byte verified; the
        sizes of the ranks' output files.

        `digest` is what the commit gave. Raises ImageCorrupt, ImageForged, StoreFull or
        RestoreFailed: none of the directories exists then.
        """

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
    def saving(self, key: ImageKey, vault: Vault) -> Iterator[_Saving]:
        blobs = self._blobs
        try:
            self._check_fence(key)
            with (
                marked(blobs) as mark,
                blobs.stage() as stage,
                ThreadPoolExecutor(blobs.workers) as pool,
            ):
                intake = Intake(Door(blobs, stage, mark, vault), pool, self._past(key, vault))
                yield _Saving(self, key, intake)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(f"no room for cut {key.cut} of {key.job}: {error}") from error
            raise CheckpointFailed(f"the images cannot be stored: {error}") from error

    def save(
        self, key: ImageKey, step: int, ranks: Mapping[int, RankImages], vault: Vault
    ) -> ShardImage:
        """All at once."""
        with self.saving(key, vault) as saving:
            for rank, images in sorted(ranks.items()):
                saving.take(rank, images)
            return saving.commit(step)

    def _past(self, key: ImageKey, vault: Vault) -> Past:
        """The last cut before this one that is in the store and can be read, by its nodes."""
        cuts: dict[tuple[int, int], list[ImageKey]] = {}
        for blob in self._blobs.list(f"{MANIFESTS}/{key.job}"):
            if (found := key_of(blob.name)) is not None and found.cut < key.cut:
                cuts.setdefault((found.cut, found.incarnation), []).append(found)
        ranks: dict[int, Mapping[Place, str]] = {}
        bases: dict[str, str] = {}
        for last in cuts[max(cuts)] if cuts else ():
            with suppress(OSError, ImageCorrupt):
                manifest = read(last, self._blobs.get(manifest_name(last)), vault)
                ranks |= {rank: manifest.places(rank) for rank in manifest.ranks}
                bases |= manifest.bases
        return Past(ranks, bases)

    def commit(
        self, key: ImageKey, step: int, ranks: Mapping[int, RankEntry], intake: Intake
    ) -> ShardImage:
        """Used by `saving`."""
        door = intake.door
        door.stage.settle()
        bases = intake.bases(file for rank in ranks.values() for file in rank.files.values())
        found = Manifest(key, step, intake.raw_bytes, intake.new_bytes, dict(ranks), bases)
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

    def chunk(self, name: str, length: int, base: bytes | None, vault: Vault) -> bytes:
        """`base` are the bytes of what it is a patch of, if it is one. Raises ImageCorrupt."""
        try:
            packed = chunk_bytes(self._blobs, name)
        except OSError as error:
            raise ImageCorrupt(f"chunk {name} cannot be read: {error}", chunk=name) from error
        return vault.unpack(name, packed, length, base)

    def load(
        self, key: ImageKey, digest: str, targets: Mapping[int, Path], vault: Vault
    ) -> Mapping[int, Mapping[str, int]]:
        manifest = self.manifest(key, digest, vault)
        if missing := sorted(targets.keys() - manifest.ranks.keys()):
            raise ImageCorrupt(f"{manifest_name(key)} does not hold ranks {missing}")

        def chunk(name: str, length: int, base: bytes | None) -> bytes:
            return self.chunk(name, length, base, vault)

        try:
            with ThreadPoolExecutor(self._blobs.workers) as pool:
                fetch(manifest, targets, chunk, pool, self._blobs.workers)
        except (OSError, ImageCorrupt) as error:
            for target in targets.values():
                shutil.rmtree(target, ignore_errors=True)
            if isinstance(error, ImageCorrupt):
                raise
            failure = StoreFull if error.errno in _FULL else RestoreFailed
            raise failure(f"cannot fetch {key.job}: {error}") from error
        return {rank: manifest.ranks[rank].outputs for rank in targets}

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


class _Saving:
    def __init__(self, store: ImageStore, key: ImageKey, intake: Intake) -> None:
        self._store, self._key, self._intake = store, key, intake
        self._ranks: dict[int, RankEntry] = {}

    def take(self, rank: int, images: RankImages) -> None:
        files = self._intake.take(rank, images.path, images.tensors)
        self._ranks[rank] = RankEntry(files, images.files)

    def commit(self, step: int) -> ShardImage:
        return self._store.commit(self._key, step, self._ranks, self._intake)
