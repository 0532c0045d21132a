"""Reads a checkpoint as a restore would, and says what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from singularity.primitives.errors import ImageCorrupt
from singularity.primitives.model import Checkpoint, JobId

from .blobs import Bytes
from .imagestore import ImageStore
from .manifest import ImageKey, chain
from .vault import Vault

_FAULTS_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """`chunks` were read, which make `bytes` of the ranks' images; each counts once."""

    ok: bool
    chunks: int
    bytes: int
    faults: tuple[str, ...]

    def view(self) -> dict[str, Any]:
        return {**asdict(self), "faults": list(self.faults)}


def verify(store: ImageStore, vault: Vault, job: JobId, checkpoint: Checkpoint) -> Verdict:
    """Read every manifest and every chunk of it. Damage is an answer, not an error."""
    faults: list[str] = []
    lengths: dict[str, int] = {}
    bases: dict[str, str] = {}
    inline: dict[str, str] = {}
    for image in checkpoint.shards:
        key = ImageKey(job, checkpoint.incarnation, checkpoint.cut, image.node)
        try:
            manifest = store.manifest(key, image.digest, vault)
        except ImageCorrupt as error:
            faults.append(f"{image.node}: {error.detail}")
            continue
        if missing := sorted(set(image.ranks) - manifest.ranks.keys()):
            faults.append(f"{image.node}: ranks {missing} are not in its manifest")
        for rank, entry in sorted(manifest.ranks.items()):
            for name, file in sorted(entry.files.items()):
                if sum(length for _, length in file.chunks) != file.bytes:
                    faults.append(f"{image.node}: rank {rank}: chunks of {name} do not add up")
        lengths.update(manifest.chunks())
        bases.update(manifest.bases)
        inline.update(manifest.inline)
    needs = {name: chain(name, bases) for name in lengths}
    every = set(needs).union(*needs.values())
    read = store.reader(vault, inline)
    for name, length in sorted(lengths.items()):
        data: Bytes | None = None
        try:
            for link in (*reversed(needs[name]), name):
                data = read(link, length, data)
        except ImageCorrupt as error:
            if error.detail not in faults:  # a base that is damaged is met more than once
                faults.append(error.detail)
    return Verdict(not faults, len(every), sum(lengths.values()), tuple(faults[:_FAULTS_MOST]))
