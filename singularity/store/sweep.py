"""Frees the chunks that no manifest needs, while saves go on.

A chunk leaves by way of the trash. First what seems unneeded is moved there; then the sweep waits
until every save that was under way has ended, for it may have seen the chunk where it was; then
manifests are read again, and what one of them needs goes back. A save that begins later does not
see what is in the trash and writes the chunk anew; a load looks in both places. So no chunk is
deleted that a manifest or a save in flight relies on, however the two interleave.

Two sweeps may run: each moves into a trash of its own and judges only that, because the other may
be just about to delete the chunk from its place. Only when its owner has died, and so can delete
nothing any more, is a trash taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .blobs import Blob, Blobs
from .manifest import CHUNKS, MANIFESTS, TRASH, chunk_name, digest_of, key_of, read
from .marks import Kind, Mark, under_way
from .vault import Vault, project_of


@dataclass(frozen=True, slots=True)
class Swept:
    """What one round did; `waiting` for saves to end before the rest of it can be done."""

    moved: int = 0
    deleted: int = 0
    freed_bytes: int = 0
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class _Batch:
    mark: Mark
    fossils: tuple[Blob, ...]
    saves: frozenset[str]  # that may have seen one of them in its place


class Sweeper:
    """`vault_of` gives the vault of a project. Chunks younger than `min_age_s` are let be: a save
    that was broken off is often taken up again."""

    def __init__(self, blobs: Blobs, vault_of: Callable[[str], Vault], min_age_s: float) -> None:
        self._blobs, self._vault_of, self.min_age_s = blobs, vault_of, min_age_s
        self._batch: _Batch | None = None

    def round(self) -> Swept:
        """Raises OSError; and ImageCorrupt for a manifest that cannot be read: then nothing is
        deleted, for it may be that the wrong keys are used. Either way, try again later."""
        moved = 0
        if self._batch is None:
            self._batch, moved = self._begun()
        batch = self._batch
        try:
            batch.mark.renew()
        except OSError:
            self._batch = None  # what it has moved is found again as the trash of a dead sweep
            raise
        if batch.saves & under_way(self._blobs, Kind.SAVE):
            return Swept(moved=moved, waiting=True)
        deleted, freed = self._settle(batch)
        self._batch = None
        batch.mark.end()
        return Swept(moved, deleted, freed)

    def _begun(self) -> tuple[_Batch, int]:
        mark = Mark(self._blobs, Kind.SWEEP)
        try:
            moved = self._condemn(mark)
        except BaseException:
            mark.end()
            raise
        # In this order: what is listed was moved, and its owner had died, before the saves are
        # looked at; no save that began later can have seen any of it in its place.
        fossils = tuple(self._blobs.list(TRASH))
        others = under_way(self._blobs, Kind.SWEEP) - {mark.id}
        mine = tuple(fossil for fossil in fossils if fossil.name.split("/")[1] not in others)
        return _Batch(mark, mine, under_way(self._blobs, Kind.SAVE)), moved

    def _condemn(self, mark: Mark) -> int:
        oldest_s, moved = self._blobs.now_s() - self.min_age_s, 0
        self._blobs.tidy(oldest_s)
        needed = self._needed()
        for chunk in self._blobs.list(CHUNKS):
            digest = digest_of(chunk.name)
            if digest not in needed and chunk.at_s <= oldest_s:
                mark.renew()
                with suppress(FileNotFoundError):
                    self._blobs.move(chunk.name, f"{TRASH}/{mark.id}/{digest}")
                    moved += 1
        return moved

    def _settle(self, batch: _Batch) -> tuple[int, int]:
        needed, deleted, freed = self._needed(), 0, 0
        for fossil in batch.fossils:
            digest = digest_of(fossil.name)
            if digest in needed and not self._blobs.has(chunk_name(digest)):
                with suppress(FileNotFoundError):  # another sweep has put it back
                    self._blobs.move(fossil.name, chunk_name(digest))
            else:
                self._blobs.delete(fossil.name)
                deleted += 1
                freed += fossil.bytes
        return deleted, freed

    def _needed(self) -> frozenset[str]:
        found: set[str] = set()
        for blob in self._blobs.list(MANIFESTS):
            if (key := key_of(blob.name)) is None:
                continue
            with suppress(FileNotFoundError):  # dropped meanwhile
                stored = self._blobs.get(blob.name)
                manifest = read(key, stored, self._vault_of(project_of(stored)))
                found.update(manifest.needed())
        return frozenset(found)
