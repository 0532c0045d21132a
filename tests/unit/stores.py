"""A store for tests, by each way of sealing, with the vault of one life of a job in hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from singularity.primitives.model import JobId, Sealing, ShardImage
from singularity.primitives.transport import SigningKey
from singularity.store.blobs import Blob, Blobs, Stage
from singularity.store.files import FileBlobs
from singularity.store.imagestore import Copies, ImageStore, RankImages
from singularity.store.manifest import ImageKey
from singularity.store.sweep import Sweeper, Swept
from singularity.store.vault import Vault

PROJECT = "vision"


def plane(sealing: Sealing, seed: int = 1) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), sealing)


@dataclass(frozen=True, slots=True)
class Shelf:
    """`save`, `find` and `load` as the life of the key does them."""

    blobs: Blobs
    key: SigningKey

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.blobs)

    def vault(self, key: ImageKey, project: str = PROJECT) -> Vault:
        return Vault(self.key.papers(project, key.job, key.incarnation))

    def save(
        self,
        key: ImageKey,
        step: int,
        ranks: Mapping[int, RankImages],
        copies: Copies | None = None,
    ) -> ShardImage:
        return self.store.save(key, step, ranks, self.vault(key), copies)

    def find(self, key: ImageKey) -> ShardImage | None:
        return self.store.find(key, self.vault(key))

    def load(self, key: ImageKey, digest: str, rank: int, target: Path) -> Mapping[str, int]:
        return self.store.load(key, digest, {rank: target}, self.vault(key))[rank]

    def sweeper(self, min_age_s: float = 0.0) -> Sweeper:
        nobody = JobId("")
        return Sweeper(self.blobs, lambda p: Vault(self.key.papers(p, nobody, 0)), min_age_s)

    def sweep(self, min_age_s: float = 0.0) -> Swept:
        return self.sweeper(min_age_s).round()


def shelf(root: Path, sealing: Sealing = Sealing.ENCRYPTED) -> Shelf:
    return Shelf(FileBlobs(root), plane(sealing))


class Trays:
    """Blobs in a dict: name -> bytes, and when they were written by a clock that never moves."""

    workers = 1

    def __init__(self, trays: dict[str, tuple[bytes, float]], now_s: float = 1000.0) -> None:
        self.trays, self._now_s = trays, now_s

    def get(self, name: str) -> bytes:
        if name not in self.trays:
            raise FileNotFoundError(name)
        return self.trays[name][0]

    def has(self, name: str) -> bool:
        return name in self.trays

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self.trays[name] = (data, self._now_s)

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        yield self

    def settle(self) -> None:
        """What is put is there."""

    def list(self, prefix: str) -> Iterator[Blob]:
        for name, (data, at_s) in sorted(self.trays.items()):
            if name.startswith(prefix + "/"):
                yield Blob(name, len(data), at_s)

    def move(self, old: str, new: str) -> None:
        self.trays[new] = (self.get(old), self._now_s)
        del self.trays[old]

    def delete(self, name: str) -> None:
        self.trays.pop(name, None)

    def now_s(self) -> float:
        return self._now_s

    def tidy(self, before_s: float) -> None:
        """Nothing is ever half there."""
