"""What one node saved for one cut: the nouns, how they are written down, and under which names.

In a manifest a chunk is (name, bytes); the name of a chunk of zeros is "", and it is not stored.
The name is the digest of the chunk; of one that is stored as a patch, that and a mark of its base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from singularity.primitives.errors import ImageCorrupt, ImageForged
from singularity.primitives.model import JobId, ShardImage
from singularity.primitives.nodes import NodeId

from .blobs import Blobs
from .chunking import Region, addresses
from .vault import Life, Vault

ZEROS: Final = ""
MANIFESTS: Final = "manifests"
CHUNKS: Final = "chunks"
TRASH: Final = "trash"
_LOOKS: Final = 3  # for a chunk that a sweep is moving

Place = tuple[int, int]  # address and bytes of a chunk in a rank's memory


@dataclass(frozen=True, slots=True)
class ImageKey:
    """Names what one node saves for one cut of one life of a job."""

    job: JobId
    incarnation: int
    cut: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One image file: its size, name and length of each chunk in order, and, if it holds memory,
    address and bytes of the regions it consists of."""

    bytes: int
    chunks: tuple[tuple[str, int], ...]
    regions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RankEntry:
    """`outputs` are the rank's output files with their sizes."""

    files: Mapping[str, FileEntry]
    outputs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`bases` names of every patch what it lies over, down to chunks that stand alone; `inline`
    are the smallest patches, as they would be stored, in base64: they are nowhere else."""

    key: ImageKey
    step: int
    raw_bytes: int
    new_bytes: int
    ranks: Mapping[int, RankEntry]
    bases: Mapping[str, str] = field(default_factory=dict)
    inline: Mapping[str, str] = field(default_factory=dict)

    def chunks(self) -> Iterator[tuple[str, int]]:
        """Name and length of each that the ranks consist of; some more than once."""
        for rank in self.ranks.values():
            for file in rank.files.values():
                yield from (chunk for chunk in file.chunks if chunk[0] != ZEROS)

    def needed(self) -> Iterator[str]:
        """Names of all that must stay in the store; some more than once."""
        names = (name for name, _ in self.chunks())
        yield from (name for name in (*names, *self.bases.values()) if name not in self.inline)

    def places(self, rank: int) -> Iterator[tuple[Place, str, str, int]]:
        """What lies where in the memory of a rank: the chunk there, and where that is in a file."""
        for file_name, file in self.ranks[rank].files.items():
            offset, regions = 0, [Region(*r) for r in file.regions]
            starts = addresses(regions, [n for _, n in file.chunks]) if regions else ()
            for address, (name, length) in zip(starts, file.chunks, strict=False):
                if name != ZEROS:
                    yield (address, length), name, file_name, offset
                offset += length


_MANIFEST: Final = TypeAdapter(Manifest)


def write(manifest: Manifest, vault: Vault) -> bytes:
    return vault.sign(_life(manifest.key), _MANIFEST.dump_json(manifest))


def read(key: ImageKey, stored: bytes, vault: Vault) -> Manifest:
    """Raises ImageForged when it is not what the life in `key` saved under it, and ImageCorrupt
    when it cannot be read."""
    text = vault.read(_life(key), stored)
    try:
        found = _MANIFEST.validate_json(text)
    except ValidationError as error:
        raise ImageCorrupt(f"the manifest {manifest_name(key)} is not understood") from error
    if found.key != key:
        detail = f"{manifest_name(key)} is the manifest of another cut: {manifest_name(found.key)}"
        raise ImageForged(detail, job=key.job)
    return found


def image_of(manifest: Manifest, stored: bytes) -> ShardImage:
    return ShardImage(
        node=manifest.key.node,
        ranks=tuple(sorted(manifest.ranks)),
        digest=blake3(stored).hexdigest(),
        step=manifest.step,
        raw_bytes=manifest.raw_bytes,
        new_bytes=manifest.new_bytes,
    )


def _life(key: ImageKey) -> Life:
    return Life(key.job, key.incarnation)


# -- names ---------------------------------------------------------------------------------------


def chunk_name(digest: str) -> str:
    return f"{CHUNKS}/{digest[:2]}/{digest[2:]}"


def digest_of(name: str) -> str:
    """Of a chunk in its place, or in the trash."""
    home, middle, last = name.split("/")
    return middle + last if home == CHUNKS else last


def plain(name: str) -> str:
    """The digest of the chunk that is called so."""
    return name.partition("-")[0]


def patch_name(digest: str, base: str) -> str:
    return f"{digest}-{blake3(base.encode()).hexdigest()[:16]}"


def chain(name: str, bases: Mapping[str, str]) -> list[str]:
    """What the chunk lies over, the nearest first."""
    found = []
    while name in bases:
        name = bases[name]
        found.append(name)
    return found


def closure(names: Iterable[str], bases: Mapping[str, str]) -> dict[str, str]:
    """Of every patch in `names`, and of what they lie over, the base."""
    found: dict[str, str] = {}
    for name in names:
        link = name
        while link in bases and link not in found:
            found[link] = bases[link]
            link = bases[link]
    return found


def cut_name(job: JobId, incarnation: int, cut: int) -> str:
    return f"{MANIFESTS}/{job}/{incarnation}-{cut}"


def manifest_name(key: ImageKey) -> str:
    return f"{cut_name(key.job, key.incarnation, key.cut)}/{key.node}"


def key_of(name: str) -> ImageKey | None:
    """Of the manifest that is called so; None when no manifest is."""
    parts = name.split("/")
    if len(parts) != 4:
        return None
    _, job, cut, node = parts
    incarnation, _, number = cut.partition("-")
    if not (incarnation.isdecimal() and number.isdecimal()):
        return None
    return ImageKey(JobId(job), int(incarnation), int(number), NodeId(node))


def chunk_bytes(blobs: Blobs, digest: str) -> bytes:
    """As stored, from wherever it is: a sweep may be about to put it back where it belongs.
    Raises OSError."""
    for _ in range(_LOOKS):
        try:
            return blobs.get(chunk_name(digest))
        except FileNotFoundError:
            for fossil in blobs.list(TRASH):
                if digest_of(fossil.name) == digest:
                    try:
                        return blobs.get(fossil.name)
                    except FileNotFoundError:
                        break
    return blobs.get(chunk_name(digest))
