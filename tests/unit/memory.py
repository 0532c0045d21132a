"""Images of ranks as CRIU writes them, as far as the store looks: pages and where they lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

PAGE_BYTES = 4096


def dump_memory(directory: Path, regions: Mapping[int, bytes]) -> None:
    """`regions`: address -> content, whole pages, in the order of the file."""
    entries = [message(f1=1)]
    for address, content in regions.items():
        entries.append(message(f1=address, f2=len(content) // PAGE_BYTES, f4=4))
    header = struct.pack("<II", 0x54564319, 0x56084025)
    directory.mkdir(parents=True)
    (directory / "pagemap-1000.img").write_bytes(header + b"".join(entries))
    (directory / "pages-1.img").write_bytes(b"".join(regions.values()))


def message(**fields: int) -> bytes:
    """A protobuf message of integers, with its size in front; `f1` is field 1."""
    body = b"".join(bytes([int(k[1:]) << 3]) + _varint(v) for k, v in fields.items())
    return struct.pack("<I", len(body)) + body


def _varint(value: int) -> bytes:
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + _varint(rest) if rest else bytes([head])
