"""Where to cut a rank's image into chunks, so that equal memory makes equal chunks.

Memory is cut by its addresses and not by its place in the image file: a region that grew shifts
all that follows it in the file, but no address. Tensors are cut from their own start, because
they begin anywhere in a page; so the same weights are one set of chunks in every rank that holds
them, wherever they lie. Any cutting is correct; a bad one only stores more.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TENSOR_CHUNK_BYTES: Final = 1 << 20
MEMORY_CHUNK_BYTES: Final = 1 << 18
_TENSOR_LEAST_BYTES: Final = 1 << 16  # smaller ones are not worth chunks of their own

_PAGE_BYTES: Final = 4096
_HEADER: Final = struct.pack("<II", 0x54564319, 0x56084025)  # CRIU: an image, of a page map
_ADDRESS, _PAGES_32, _IN_PARENT, _FLAGS, _PAGES_64 = 1, 2, 3, 4, 5  # fields of an entry
_PAGES_ID: Final = 1  # field of the head
_PRESENT: Final = 4
_VARINT: Final = 0

Tensor = tuple[int, int]  # address, bytes


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive memory; regions follow each other in the image file without gaps."""

    address: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FileCut:
    """Lengths of a file's chunks, in order; `regions` are there when it holds memory."""

    lengths: tuple[int, ...]
    regions: tuple[Region, ...] = ()


def cut_rank(images: Path, tensors: Sequence[Tensor]) -> dict[str, FileCut]:
    """File name -> its cut, of every file in `images`."""
    regions = _regions(images)
    found = {}
    for path in sorted(images.iterdir()):
        size = path.stat().st_size
        mine = regions.get(path.name, ())
        if sum(region.bytes for region in mine) == size:
            lengths = (n for region in mine for n in cut_region(region, tensors))
            found[path.name] = FileCut(tuple(lengths), mine)
        else:  # not memory, or laid out in a way unknown to us
            found[path.name] = FileCut(tuple(cut_region(Region(0, size), ())))
    return found


def addresses(regions: Sequence[Region], lengths: Sequence[int]) -> Iterator[int]:
    """Of each chunk; a chunk lies in one region."""
    left = iter(regions)
    region, at = Region(0, 0), 0
    for length in lengths:
        if at == region.address + region.bytes:
            region = next(left)
            at = region.address
        yield at
        at += length


def cut_region(region: Region, tensors: Sequence[Tensor]) -> Iterator[int]:
    """Lengths of the chunks of one region; `tensors` are sorted and do not overlap."""
    starts = [address for address, _ in tensors]
    at, end = region.address, region.address + region.bytes
    while at < end:
        index = bisect_right(starts, at) - 1
        following = starts[index + 1] if index + 1 < len(starts) else end
        base, stop, step = 0, following, MEMORY_CHUNK_BYTES
        if index >= 0 and at < sum(tensors[index]):
            base, stop, step = tensors[index][0], sum(tensors[index]), TENSOR_CHUNK_BYTES
        upto = min(end, stop, base + ((at - base) // step + 1) * step)
        yield upto - at
        at = upto


def worth_cutting(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Sorted, without the small ones, and without those that lie in another's memory (views)."""
    found: list[Tensor] = []
    for address, size in sorted(tensors):
        apart = not found or address >= sum(found[-1])
        if apart and size >= _TENSOR_LEAST_BYTES:
            found.append((address, size))
    return tuple(found)


def _regions(images: Path) -> Mapping[str, tuple[Region, ...]]:
    """Page file -> what lies in it, from CRIU's page maps."""
    found = {}
    for path in sorted(images.glob("pagemap-*.img")):
        data = path.read_bytes()
        if not data.startswith(_HEADER):
            continue
        try:
            head, *entries = [dict(_fields(message)) for message in _messages(data)]
        except (ValueError, IndexError):
            continue
        regions = [
            Region(entry[_ADDRESS], entry.get(_PAGES_64, entry.get(_PAGES_32, 0)) * _PAGE_BYTES)
            for entry in entries
            if entry.get(_FLAGS, 0 if entry.get(_IN_PARENT) else _PRESENT) & _PRESENT
        ]
        found[f"pages-{head.get(_PAGES_ID, 0)}.img"] = _joined(regions)
    return found


def _joined(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Neighbours made one: CRIU splits memory at every MiB or so, for reasons of its own."""
    found: list[Region] = []
    for region in regions:
        if found and found[-1].address + found[-1].bytes == region.address:
            found[-1] = Region(found[-1].address, found[-1].bytes + region.bytes)
        else:
            found.append(region)
    return tuple(found)


def _messages(data: bytes) -> Iterator[bytes]:
    at = len(_HEADER)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """Number and value of each field of a protobuf message; page maps hold integers only."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 != _VARINT:
            raise ValueError(f"field {key >> 3} is no integer")
        value, at = _varint(message, at)
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
