"""How a chunk is made small: compressed by itself, or as what differs from another (a patch).

Where few words differ, a patch lists them: finding them costs no more than comparing. Else it is
compressed with its base as the dictionary, one portion of both at a time: the fast levels of zstd
remember only so much of a dictionary, and what has moved a little is found nearby.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Final

import numpy as np
import zstandard

from .blobs import Bytes

# Of zstd. Lower ones find little in a dictionary, and higher ones take three times as long.
_LEVEL: Final = 1
_PORTION_BYTES: Final = 1 << 16
_SIZE: Final = struct.Struct("<I")
_WORD_BYTES: Final = 8
_WORDS: Final = b"\xff\xff\xff\xff"  # begins a list of words: no portion is as long as that says
_FEW_WORDS: Final = 0.1  # of all; more of them are smaller, and no slower, by the dictionary
_SAMPLE_BYTES: Final = 1 << 14
_NOT_SMALLER: Final = 0.95  # of a sample: then the whole is not worth it; weights come to 0.93
_FRAME: Final = struct.Struct("<IBI")  # of zstd: magic, descriptor (one segment, 4 bytes of size)
_FRAME_HEAD: Final = 0xFD2FB528, 0xA0
_BLOCK_BYTES: Final = 1 << 17  # the most that one block of a frame may hold
_MINE: Final = threading.local()  # a compressor serves one thread


class Damaged(ValueError):
    """These bytes were never packed here."""


def pack(data: Bytes) -> bytes:
    """Compressed; or, where a sample shows that it would hardly be smaller, the same kind of frame
    with the bytes as they are."""
    whole = memoryview(data)
    if len(whole) > 2 * _SAMPLE_BYTES:
        middle = len(whole) // 2
        sample = whole[middle : middle + _SAMPLE_BYTES]
        if len(_compressor().compress(sample)) > _NOT_SMALLER * len(sample):
            return _stored(whole)
    packed: bytes = _compressor().compress(data)
    return packed


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_MINE, "compressor"):
        _MINE.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    found: zstandard.ZstdCompressor = _MINE.compressor
    return found


def _stored(data: memoryview) -> bytes:
    """A frame of zstd in which nothing is compressed."""
    parts: list[Bytes] = [_FRAME.pack(*_FRAME_HEAD, len(data))]
    for at in range(0, len(data), _BLOCK_BYTES):
        block = data[at : at + _BLOCK_BYTES]
        last = at + len(block) == len(data)
        parts += [(last | len(block) << 3).to_bytes(3, "little"), block]
    return b"".join(parts)


def unpack(packed: Bytes, most: int) -> bytes:
    """At most `most` bytes: a damaged frame may claim any size. Raises Damaged."""
    return _unpack(packed, most, None)


def pack_patch(data: memoryview, base: Bytes) -> bytes:
    """What makes `data` of `base`, which is as long."""
    if (words := _changed_words(data, base)) is not None:
        return _WORDS + _compressor().compress(words)
    found = []
    for at in range(0, len(data), _PORTION_BYTES):
        upto = at + _PORTION_BYTES
        compressor = zstandard.ZstdCompressor(level=_LEVEL, dict_data=_dictionary(base[at:upto]))
        portion = compressor.compress(data[at:upto])
        found += [_SIZE.pack(len(portion)), portion]
    return b"".join(found)


def _changed_words(data: Bytes, base: Bytes) -> bytes | None:
    """How many there are, where, by how much each differs, and the bytes behind the last word;
    None when they are many. Reference counts differ by little, so equal bytes of all differences
    lie together."""
    count = len(data) // _WORD_BYTES
    now, then = (np.frombuffer(d, np.uint64, count) for d in (data, base))
    at = np.flatnonzero(now != then)
    if len(at) > _FEW_WORDS * count:
        return None
    gaps = np.diff(at, prepend=0).astype(np.uint32)
    by = (now[at] - then[at]).view(np.uint8).reshape(-1, _WORD_BYTES)
    tail = bytes(data[count * _WORD_BYTES :])
    return b"".join([_SIZE.pack(len(at)), gaps.tobytes(), by.T.tobytes(), tail])


def _with_words(listed: bytes, base: Bytes) -> Bytes:
    """`base` with the words that `_changed_words` has listed."""
    count, room = len(base) // _WORD_BYTES, len(listed) - _SIZE.size - len(base) % _WORD_BYTES
    (changed,) = _SIZE.unpack_from(listed) if room >= 0 else (-1,)
    if room != changed * (4 + _WORD_BYTES):
        raise Damaged("a list of words of another size")
    found = bytearray(base)
    at = np.cumsum(np.frombuffer(listed, np.uint32, changed, _SIZE.size), dtype=np.int64)
    by = np.frombuffer(listed, np.uint8, changed * _WORD_BYTES, _SIZE.size + 4 * changed)
    if changed and at[-1] >= count:
        raise Damaged("a word behind the end")
    words = np.frombuffer(found, np.uint64, count)
    words[at] += np.ascontiguousarray(by.reshape(_WORD_BYTES, -1).T).view(np.uint64).ravel()
    if tail := len(base) % _WORD_BYTES:
        found[-tail:] = listed[-tail:]
    return memoryview(found).toreadonly()


def unpack_patch(packed: bytes, base: Bytes) -> Bytes:
    """What `pack_patch` was given. Raises Damaged."""
    if packed.startswith(_WORDS):
        words = _unpack(packed[len(_WORDS) :], _SIZE.size + 2 * len(base) + _WORD_BYTES, None)
        return _with_words(words, base)
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
