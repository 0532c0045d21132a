"""What a rank printed: the last lines, and what comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from singularity.primitives.model import JobId

_BLOCK: Final = 64 * 1024


def log_path(volume: Path, job: JobId, rank: int) -> Path:
    """`job` comes out of the database and `rank` is a number: no part of it is what was sent."""
    return volume / "jobs" / job / "logs" / f"rank-{rank}.log"


def start_of_tail(file: BinaryIO, lines: int) -> int:
    """Offset of the first byte of the last `lines` lines; reads only as far back as needed."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    offset, left = end, lines
    while offset > 0:
        size = min(_BLOCK, offset)
        offset -= size
        file.seek(offset)
        block = file.read(size)
        at = len(block)
        if offset + size == end and block.endswith(b"\n"):
            at -= 1  # the last line's own end begins no line
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            left -= 1
            if left == 0:
                return offset + at + 1
    return 0


def read_from(path: Path, offset: int, most: int) -> bytes:
    """At most `most` bytes; none when the file does not exist (yet), or ends there."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(most)
    except FileNotFoundError:
        return b""


def first_offset(path: Path, tail: int | None) -> int:
    try:
        with path.open("rb") as file:
            return 0 if tail is None else start_of_tail(file, tail)
    except FileNotFoundError:
        return 0


def blocks(path: Path, offset: int) -> Iterator[bytes]:
    """From `offset` to where the file ends now."""
    end = path.stat().st_size if path.exists() else 0
    while offset < end and (block := read_from(path, offset, min(_BLOCK, end - offset))):
        offset += len(block)
        yield block


def whole(block: bytes) -> int:
    """How many bytes of `block` may be sent as text without cutting a character in two."""
    for back in range(1, min(4, len(block)) + 1):
        byte = block[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(block) if back >= length else len(block) - back
    return len(block)
