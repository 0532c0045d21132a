"""How a chunk is made small: compressed by itself, or as what differs from another (a patch).

A patch is compressed with its base as the dictionary, one portion of both at a time: the fast
levels of zstd remember only so much of a dictionary, and equal memory lies at equal offsets. So a
page of which a few words have changed costs a few bytes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Final

import zstandard

from .blobs import Bytes

# Of zstd. Lower ones find little in a dictionary, and higher ones take three times as long.
_LEVEL: Final = 1
_PORTION_BYTES: Final = 1 << 16
_SIZE: Final = struct.Struct("<I")
_MINE: Final = threading.local()  # a compressor serves one thread


class Damaged(ValueError):
    """These bytes were never packed here."""


def pack(data: Bytes) -> bytes:
    if not hasattr(_MINE, "compressor"):
        _MINE.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    packed: bytes = _MINE.compressor.compress(data)
    return packed


def unpack(packed: Bytes, most: int) -> bytes:
    """At most `most` bytes: a damaged frame may claim any size. Raises Damaged."""
    return _unpack(packed, most, None)


def pack_patch(data: memoryview, base: Bytes) -> bytes:
    """What makes `data` of `base`, which is as long."""
    found = []
    for at in range(0, len(data), _PORTION_BYTES):
        upto = at + _PORTION_BYTES
        compressor = zstandard.ZstdCompressor(level=_LEVEL, dict_data=_dictionary(base[at:upto]))
        portion = compressor.compress(data[at:upto])
        found += [_SIZE.pack(len(portion)), portion]
    return b"".join(found)


def unpack_patch(packed: bytes, base: bytes) -> bytes:
    """What `pack_patch` was given. Raises Damaged."""
    portions, found = list(_portions(packed)), []
    if len(portions) != -(-len(base) // _PORTION_BYTES):
        raise Damaged("a patch of another size")
    for number, portion in enumerate(portions):
        under = base[number * _PORTION_BYTES : (number + 1) * _PORTION_BYTES]
        found.append(_unpack(portion, len(under), _dictionary(under)))
    return b"".join(found)


def _unpack(packed: Bytes, most: int, base: zstandard.ZstdCompressionDict | None) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= most:
            raise Damaged("it says that it is larger than it can be")
        return zstandard.ZstdDecompressor(dict_data=base).decompress(packed)
    except zstandard.ZstdError as error:
        raise Damaged(str(error)) from error


def _portions(packed: bytes) -> Iterator[memoryview]:
    at, data = 0, memoryview(packed)
    while at < len(packed):
        try:
            (size,) = _SIZE.unpack_from(packed, at)
        except struct.error as error:
            raise Damaged("a patch that ends too early") from error
        at += _SIZE.size
        yield data[at : at + size]
        at += size


def _dictionary(base: Bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(bytes(base), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
