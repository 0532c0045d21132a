"""Reads a checkpoint as a restore would, and says what is wrong with it.

The layout is the store's: manifests/<job>/<incarnation>-<cut>/<node>.json name the chunks by the
blake3 of their bytes; chunks/ab/cdef… hold them, compressed by zstd; "" is a chunk of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import zstandard
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from singularity.primitives.model import Checkpoint, JobId, ShardImage

_ZEROS: Final = ""
_FAULTS_MOST: Final = 100
_CHUNK_MOST_BYTES: Final = 256 * 1024**2
Digest = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _File(_Loose):
    bytes: int
    chunks: tuple[tuple[Digest, int], ...]


class _Rank(_Loose):
    files: dict[str, _File]


class _Manifest(_Loose):
    ranks: dict[int, _Rank]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`chunks` were read, of `bytes` when unpacked; each counts once."""

    ok: bool
    chunks: int
    bytes: int
    faults: tuple[str, ...]

    def view(self) -> dict[str, Any]:
        return {**asdict(self), "faults": list(self.faults)}


def verify(volume: Path, job: JobId, checkpoint: Checkpoint) -> Verdict:
    """Read every manifest and every chunk of it. Damage is an answer, not an error."""
    faults: list[str] = []
    found: dict[str, int] = {}
    for image in checkpoint.shards:
        name = f"{checkpoint.incarnation}-{checkpoint.cut}"
        path = volume / "manifests" / job / name / f"{image.node}.json"
        faults += _manifest(path, image, found)
    for digest, length in sorted(found.items()):
        if fault := _chunk(volume, digest, length):
            faults.append(fault)
    return Verdict(not faults, len(found), sum(found.values()), tuple(faults[:_FAULTS_MOST]))


def _manifest(path: Path, image: ShardImage, found: dict[str, int]) -> Iterator[str]:
    """Faults of one node's manifest; adds the chunks that it names to `found`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        yield f"{image.node}: its manifest cannot be read: {error.strerror}"
        return
    if blake3(data).hexdigest() != image.digest:
        yield f"{image.node}: its manifest was changed after it was written"
        return
    try:
        manifest = _Manifest.model_validate_json(data)
    except ValidationError:
        yield f"{image.node}: its manifest is not understood"
        return
    if missing := sorted(set(image.ranks) - manifest.ranks.keys()):
        yield f"{image.node}: ranks {missing} are not in its manifest"
    for rank, entry in sorted(manifest.ranks.items()):
        for name, file in sorted(entry.files.items()):
            if sum(length for _, length in file.chunks) != file.bytes:
                yield f"{image.node}: rank {rank}: chunks of {name} do not add up"
            found.update({digest: size for digest, size in file.chunks if digest != _ZEROS})


def _chunk(volume: Path, digest: str, length: int) -> str:
    """What is wrong with one chunk; "" for nothing. A sweep may have it in the trash just now."""
    for path in (volume / "chunks" / digest[:2] / digest[2:], volume / "trash" / digest):
        try:
            packed = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"chunk {digest[:12]} cannot be read: {error.strerror}"
        try:
            size = min(max(length, 1), _CHUNK_MOST_BYTES)
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError:
            return f"chunk {digest[:12]} cannot be unpacked"
        if len(data) != length or blake3(data).hexdigest() != digest:
            return f"chunk {digest[:12]} is damaged"
        return ""
    return f"chunk {digest[:12]} is missing"
