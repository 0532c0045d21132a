"""Makes the store forget what no job needs, and frees its bytes.

Level-triggered like all else: a round compares what is in the store with what the ledger says, so
it also finds what an aborted cut, an old life or a crash has left. What the ledger lists is always
in the store: it gives up a checkpoint before the store does.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from singularity.primitives.model import JobId
from singularity.primitives.transport import SigningKey
from singularity.scheduler.policy import Policy
from singularity.scheduler.retention import lent, needed, outlived
from singularity.store.blobs import Blobs
from singularity.store.imagestore import ImageStore
from singularity.store.manifest import MANIFESTS, key_of
from singularity.store.sweep import Sweeper, Swept
from singularity.store.vault import Vault

from .applier import SqlLedger
from .settings import Settings

_SWEEP_EVERY_S = 3600.0  # with nothing dropped: broken saves leave chunks too


@dataclass(frozen=True, slots=True)
class Tidied:
    """`dropped` cuts, and what became of chunks."""

    dropped: int
    swept: Swept = field(default_factory=Swept)


class Janitor:
    """One at a time is enough; two do no harm."""

    def __init__(self, ledger: SqlLedger, blobs: Blobs, sweeper: Sweeper, policy: Policy) -> None:
        self._ledger, self._blobs, self._images = ledger, blobs, ImageStore(blobs)
        self._sweeper, self._policy = sweeper, policy
        self._sweep_at_s = 0.0

    def round(self, now_s: float) -> Tidied:
        """Raises OSError when the store fails, and what Sweeper.round raises."""
        dropped = self._drop(now_s)
        if not dropped and now_s < self._sweep_at_s:
            return Tidied(0)
        self._sweep_at_s = now_s  # again at once, should this one fail
        swept = self._sweeper.round()
        if not swept.waiting:  # what was dropped may have been too young to be swept
            pause_s = self._sweeper.min_age_s if dropped else _SWEEP_EVERY_S
            self._sweep_at_s = now_s + pause_s
        return Tidied(dropped, swept)

    def _drop(self, now_s: float) -> int:
        stored = self._stored()
        jobs = self._ledger.jobs_of(stored)  # after the store was listed: see `needed`
        kept = lent(self._ledger.shadows())
        lenders = {owner for owner, _, _ in kept}
        gone = {i for i, job in jobs.items() if outlived(job, now_s, self._policy)} - lenders
        self._ledger.retire({i for i in gone if jobs[i].checkpoints}, now_s)
        dropped = 0
        for job in jobs.values():
            if job.id in gone:
                self._images.forget(job.id)
                dropped += len(stored[job.id])
            else:
                old = {
                    c for c in stored[job.id] if not needed(job, *c) and (job.id, *c) not in kept
                }
                for incarnation, cut in sorted(old):
                    self._images.drop(job.id, incarnation, cut)
                dropped += len(old)
        return dropped

    def _stored(self) -> dict[JobId, set[tuple[int, int]]]:
        found: dict[JobId, set[tuple[int, int]]] = defaultdict(set)
        for blob in self._blobs.list(MANIFESTS):
            if (key := key_of(blob.name)) is not None:
                found[key.job].add((key.incarnation, key.cut))
        return dict(found)


def open_janitor(ledger: SqlLedger, settings: Settings) -> Janitor:
    blobs, key = settings.blobs(), settings.signing_key()
    sweeper = Sweeper(blobs, lambda project: reader(key, project), settings.chunk_least_age_s)
    return Janitor(ledger, blobs, sweeper, settings.policy())


def reader(key: SigningKey, project: str) -> Vault:
    """By which the control plane reads whatever a project's jobs have saved."""
    return Vault(key.papers(project, JobId(""), 0))
