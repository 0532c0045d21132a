"""What a rank printed: the last lines, and what comes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from singularity.primitives.model import JobId

_BLOCK: Final = 64 * 1024


def log_path(volume: Path, job: JobId, rank: int) -> Path:
    """`job` comes out of the database and `rank` is a number: no part of it is what was sent."""
    return volume / "jobs" / job / "logs" / f"rank-{rank}.log"


def hole(file: BinaryIO) -> tuple[int, int]:
    """Where output is missing (`agent/printed.py`): from, to; the end twice if none is."""
    end = os.fstat(file.fileno()).st_size
    start = _next(file, 0, os.SEEK_HOLE, end)
    return start, _next(file, start, os.SEEK_DATA, end)


def _next(file: BinaryIO, offset: int, what: int, end: int) -> int:
    """Where a hole, or what is none, begins at `offset` or behind it; `end` if nowhere."""
    try:
        return min(end, os.lseek(file.fileno(), offset, what))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def start_of_tail(file: BinaryIO, lines: int, missing: tuple[int, int] = (0, 0)) -> int:
    """Offset of the first byte of the last `lines` lines; reads only as far back as needed, and
    not what is `missing`."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    offset, left = end, lines
    while offset > 0:
        if missing[0] < offset <= missing[1]:
            offset = missing[0]
            continue
        size = min(_BLOCK, offset - missing[1] if offset > missing[1] else offset)
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


def read_from(path: Path, offset: int, most: int) -> tuple[int, bytes]:
    """At most `most` bytes, and where they are, which is `offset` but for what is missing there;
    none when the file does not exist (yet), or ends there."""
    try:
        with path.open("rb", buffering=0) as file:
            end = max(offset, os.fstat(file.fileno()).st_size)
            offset = _next(file, offset, os.SEEK_DATA, end)
            most = min(most, _next(file, offset, os.SEEK_HOLE, end) - offset)
            file.seek(offset)
            return offset, file.read(most)
    except FileNotFoundError:
        return offset, b""


def first_offset(path: Path, tail: int | None) -> int:
    try:
        with path.open("rb") as file:
            return 0 if tail is None else start_of_tail(file, tail, hole(file))
    except FileNotFoundError:
        return 0


def blocks(path: Path, offset: int) -> Iterator[bytes]:
    """From `offset` to where the file ends now."""
    end = path.stat().st_size if path.exists() else 0
    while offset < end:
        offset, block = read_from(path, offset, min(_BLOCK, end - offset))
        if not block:
            return
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
