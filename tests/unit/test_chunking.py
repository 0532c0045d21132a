"""Laws of cutting: nothing is lost or repeated, and equal tensors make equal chunks."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from singularity.store.chunking import (
    MEMORY_CHUNK_BYTES,
    TENSOR_CHUNK_BYTES,
    Region,
    addresses,
    cut_rank,
    cut_region,
    worth_cutting,
)
from tests.unit.memory import message

PAGE = 4096
spans = st.tuples(st.integers(0, 1 << 24), st.integers(1, 1 << 22))


@given(st.integers(0, 1 << 12), st.integers(0, 1 << 11), st.lists(spans, max_size=12))
def test_chunks_cover_a_region_exactly(
    page: int, pages: int, tensors: list[tuple[int, int]]
) -> None:
    region = Region(page * PAGE, pages * PAGE)
    lengths = list(cut_region(region, worth_cutting(tensors)))
    assert sum(lengths) == region.bytes
    assert all(0 < n <= TENSOR_CHUNK_BYTES for n in lengths)


@given(st.integers(0, 64 * PAGE), st.integers(0, 64 * PAGE), st.integers(1 << 16, 1 << 22))
def test_a_tensor_is_cut_the_same_wherever_it_lies(here: int, there: int, size: int) -> None:
    def chunks(address: int) -> list[int]:
        """Lengths of the chunks that lie in the tensor, with what surrounds it left out."""
        start = 1 << 23
        region = Region(start, 1 << 23)
        at, found = region.address, []
        for length in cut_region(region, ((start + address, size),)):
            if start + address <= at < start + address + size:
                found.append(length)
            at += length
        return found

    assert chunks(here) == chunks(there)
    assert sum(chunks(here)) == size


def test_memory_that_grew_at_its_start_keeps_its_chunks() -> None:
    end = 40 * MEMORY_CHUNK_BYTES
    before = list(cut_region(Region(8 * MEMORY_CHUNK_BYTES, end), ()))
    after = list(cut_region(Region(8 * MEMORY_CHUNK_BYTES - 3 * PAGE, end + 3 * PAGE), ()))
    assert after[1:] == before


def test_page_maps_are_understood(tmp_path: Path) -> None:
    """A head (pages_id 1), two neighbours, a hole, an absent entry."""

    base, near, far = 1 << 32, (1 << 32) + 10 * PAGE, (1 << 40)
    entries = [
        message(f1=1),
        message(f1=base, f2=10, f4=4),
        message(f1=near, f2=54, f4=4),
        message(f1=far, f5=3, f4=4),
        message(f1=far + (1 << 30), f2=9, f4=2),
    ]
    header = struct.pack("<II", 0x54564319, 0x56084025)
    (tmp_path / "pagemap-1000.img").write_bytes(header + b"".join(entries))
    (tmp_path / "pages-1.img").write_bytes(bytes(67 * PAGE))
    cut = cut_rank(tmp_path, ())["pages-1.img"]
    assert cut.lengths == (MEMORY_CHUNK_BYTES, 3 * PAGE)
    assert list(addresses(cut.regions, cut.lengths)) == [base, far]


@given(st.binary(max_size=300))
def test_any_page_map_will_do(data: bytes) -> None:
    """Garbage in it costs space and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        (images / "pagemap-1.img").write_bytes(struct.pack("<II", 0x54564319, 0x56084025) + data)
        (images / "pages-0.img").write_bytes(bytes(3 * PAGE))
        cuts = cut_rank(images, ())
    assert sum(cuts["pages-0.img"].lengths) == 3 * PAGE
    assert sum(cuts["pagemap-1.img"].lengths) == len(data) + 8
