"""Memory that is much like memory that is stored takes little room, and comes back whole."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import ImageCorrupt
from singularity.primitives.model import Checkpoint, JobId, Sealing, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.store.chunking import MEMORY_CHUNK_BYTES
from singularity.store.imagestore import Copy, RankImages
from singularity.store.manifest import ImageKey, Manifest, chain, chunk_name
from singularity.store.packing import Damaged, pack, pack_patch, unpack, unpack_patch
from singularity.store.vault import Vault
from singularity.store.verify import verify
from tests.unit.memory import PAGE_BYTES, dump_memory
from tests.unit.stores import Shelf, Trays, plane

KEY = ImageKey(JobId("j-1"), 1, 1, NodeId("n-1"))
HEAP = 0x5555_5600_0000
SIZE = 1 << 20
RANKS = range(4)


def heap(seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def touched(memory: bytes, seed: int, pages: int = 2) -> bytes:
    """With a word changed in every so many pages, as reference counts do."""
    found, draw = bytearray(memory), random.Random(seed)
    for page in range(0, SIZE, pages * PAGE_BYTES):
        at = page + draw.randrange(PAGE_BYTES // 8) * 8
        found[at : at + 8] = draw.randbytes(8)
    return bytes(found)


class World:
    """One job whose cuts are given as the memory of each rank."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trays: dict[str, tuple[bytes, float]] = {}
        self.shelf = Shelf(Trays(self.trays), plane(Sealing.ENCRYPTED))
        self.saved: dict[int, tuple[ShardImage, list[bytes]]] = {}

    def save(
        self, cut: int, ranks: list[bytes], job: str = "j-1", *, beside: int = 0
    ) -> ShardImage:
        """With copies at hand of what was saved for the cut `beside`, if that is given."""
        images = {}
        for rank, memory in enumerate(ranks):
            path = self.root / f"{job}-{cut}-{rank}"
            dump_memory(path, {HEAP: memory})
            images[rank] = RankImages(path)
        key = replace(KEY, cut=cut, job=JobId(job))
        image = self.shelf.save(key, cut, images, self.copies(beside) if beside else {})
        self.saved[cut] = image, ranks
        return image

    def copies(self, cut: int) -> dict[int, Copy]:
        image, ranks = self.saved[cut]
        key = replace(KEY, cut=cut)
        paths = {rank: self.root / f"{KEY.job}-{cut}-{rank}" for rank in range(len(ranks))}
        return {rank: Copy(key, image.digest, path) for rank, path in paths.items()}

    def check(self, cut: int, *, near: int = 0) -> None:
        """It comes back whole, with what was saved for the cut `near` at hand, if that is given."""
        image, ranks = self.saved[cut]
        key = replace(KEY, cut=cut)
        targets = {r: self.root / "out" / f"{cut}-{r}-{near}" for r in range(len(ranks))}
        like = [self.copies(near)] if near else []
        self.shelf.store.load(key, image.digest, targets, self.shelf.vault(key), like)
        for rank, memory in enumerate(ranks):
            assert (targets[rank] / "pages-1.img").read_bytes() == memory

    def names(self) -> list[str]:
        return [name for name in self.trays if name.startswith("chunks/")]

    def manifest(self, cut: int) -> Manifest:
        key = replace(KEY, cut=cut)
        return self.shelf.store.manifest(key, self.saved[cut][0].digest, self.shelf.vault(key))

    def deepest(self, cut: int) -> int:
        found = self.manifest(cut)
        return max(len(chain(name, found.bases)) for name, _ in found.chunks())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200_000), st.lists(st.integers(0, 199_999), max_size=20), st.integers())
def test_a_patch_makes_of_its_base_what_it_was_made_of(
    size: int, changes: list[int], seed: int
) -> None:
    base = random.Random(seed).randbytes(size)
    data = bytearray(base)
    for at in changes:
        data[at % size] ^= 1
    packed = pack_patch(memoryview(data), base)
    assert unpack_patch(packed, base) == data
    assert len(packed) < 200 + 40 * len(changes) + size // 100


@given(st.binary(max_size=200), st.integers(0, 200))
def test_what_was_never_packed_is_damaged_or_of_the_right_size(data: bytes, size: int) -> None:
    for read in (lambda: unpack(data, size), lambda: unpack_patch(data, bytes(size))):
        try:
            assert len(read()) <= size
        except Damaged:
            pass
    assert unpack(pack(data), len(data)) == data


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 600_000), st.booleans(), st.integers())
def test_noise_is_stored_as_it_is_and_weights_are_compressed(
    size: int, weights: bool, seed: int
) -> None:
    draw = np.random.default_rng(abs(seed))
    data = draw.standard_normal(size // 4, np.float32).tobytes() if weights else draw.bytes(size)
    packed = pack(data)
    assert unpack(packed, len(data)) == data
    assert len(packed) < len(data) * (0.95 if weights and size > 50_000 else 1.0) + 40


def test_ranks_that_are_much_alike_take_little_more_room_than_one(world: World) -> None:
    ranks = [heap(), *(touched(heap(), seed) for seed in RANKS[1:])]
    assert world.save(1, ranks).new_bytes < 1.2 * SIZE
    world.check(1)


def test_the_next_cut_takes_the_room_of_what_has_changed(world: World) -> None:
    first = [heap(rank) for rank in RANKS]
    world.save(1, first)
    world.save(2, [touched(memory, 9) for memory in first])
    assert world.saved[2][0].new_bytes < 0.05 * SIZE * len(RANKS)
    third = [*first[:2], touched(first[2], 9), touched(first[3], 10)]
    assert world.save(3, third).new_bytes < 0.02 * SIZE * len(RANKS)
    for cut in (1, 2, 3):
        world.check(cut)


def test_patches_do_not_pile_up(world: World) -> None:
    memory = heap()
    for cut in range(1, 8):
        world.save(cut, [memory])
        assert world.deepest(cut) <= 2
        memory = touched(memory, cut)
    world.check(7)


def test_nor_do_they_beside_a_copy(world: World) -> None:
    memory, depths = heap(), []
    for cut in range(1, 12):
        world.save(cut, [memory], beside=cut - 1)
        depths.append(world.deepest(cut))
        memory = touched(memory, cut, pages=16)
    assert max(depths) == 4 and 2 in depths[5:], "it begins anew nearer to the ground"
    for cut in range(1, 12):
        world.check(cut)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=2), min_size=2, max_size=5))
def test_copies_at_hand_change_nothing_but_the_work(cuts: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        world, memory = World(Path(name)), [heap(), heap()]
        for cut, pages in enumerate(cuts, start=1):
            world.save(cut, memory, beside=cut - 1)
            memory = [touched(m, cut, p) if p else m for m, p in zip(memory, pages, strict=True)]
        for cut in world.saved:
            world.check(cut)
            for near in world.saved:
                world.check(cut, near=near)


def test_what_is_at_hand_is_not_read(world: World) -> None:
    """Nor is what patches lie over, if that is what is at hand."""
    memory = heap()
    world.save(1, [memory])
    before = {name for _, name, _, _ in world.manifest(1).places(0)}
    world.save(2, [touched(memory, 1, pages=64)], beside=1)
    for name in before:
        del world.trays[chunk_name(name)]
    world.check(2, near=1)
    with pytest.raises(ImageCorrupt):
        world.check(2)


def test_what_is_at_hand_of_another_job_will_do_and_of_another_project_will_not(
    world: World,
) -> None:
    memory = heap()
    world.save(1, [memory])
    copies = world.copies(1)
    key = replace(KEY, job=JobId("j-2"))
    other = world.shelf.save(key, 1, {0: RankImages(copies[0].path)})
    memory_names = {chunk_name(name) for _, name, _, _ in world.manifest(1).places(0)}
    theirs = Vault(world.shelf.key.papers("speech", JobId("j-3"), 1))
    third = replace(KEY, job=JobId("j-3"))
    stranger = world.shelf.store.save(third, 1, {0: RankImages(copies[0].path)}, theirs)
    for name in memory_names:
        del world.trays[name]
    vault, out = world.shelf.vault(key), world.root / "out"
    world.shelf.store.load(key, other.digest, {0: out / "own"}, vault, [copies])
    assert (out / "own" / "pages-1.img").read_bytes() == memory
    world.shelf.store.load(third, stranger.digest, {0: out / "theirs"}, theirs, [copies])
    assert (out / "theirs" / "pages-1.img").read_bytes() == memory


def test_memory_that_did_not_change_is_not_even_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = heap()
    world.save(1, [memory])
    named: list[int] = []
    name = Vault.name
    monkeypatch.setattr(Vault, "name", lambda v, d: named.append(len(d)) or name(v, d))
    changed = bytearray(memory)
    changed[5] ^= 1
    world.save(2, [bytes(changed)], beside=1)
    assert sum(named) < SIZE - MEMORY_CHUNK_BYTES
    world.check(2)


def test_small_patches_are_in_the_manifest_and_go_with_it(world: World) -> None:
    memory = heap()
    world.save(1, [memory])
    before = world.names()
    for cut in range(2, 6):
        memory = touched(memory, cut, pages=64)
        world.save(cut, [memory], beside=cut - 1)
    assert [name for name in world.names() if name not in before] == []
    assert len(world.manifest(5).inline) >= len(world.manifest(5).bases) > 0
    for cut in range(1, 5):
        world.shelf.store.drop(KEY.job, 1, cut)
    world.shelf.sweep()
    world.check(5)


def test_what_is_gone_from_the_store_is_written_again_beside_a_copy_of_it(world: World) -> None:
    memory = heap()
    world.save(1, [memory])
    for name in world.names():
        del world.trays[name]
    world.save(2, [touched(memory, 1)], beside=1)
    world.check(2)
    world.save(3, [memory], beside=1)
    world.check(3)


def test_a_copy_of_a_cut_that_was_dropped_is_of_no_use_and_does_no_harm(world: World) -> None:
    memory = heap()
    world.save(1, [memory])
    assert world.shelf.store.whole(world.copies(1), world.shelf.vault(KEY)) == {0}
    world.shelf.store.drop(KEY.job, 1, 1)
    assert world.shelf.store.whole(world.copies(1), world.shelf.vault(KEY)) == set()
    world.save(2, [touched(memory, 1)], beside=1)
    world.check(2)


def test_a_copy_with_a_file_cut_short_is_none(world: World) -> None:
    world.save(1, [heap(), heap()])
    os.truncate(world.copies(1)[0].path / "pages-1.img", 5)
    assert world.shelf.store.whole(world.copies(1), world.shelf.vault(KEY)) == {1}
    world.save(2, [heap(), heap()], beside=1)
    world.check(2)


def test_other_memory_stands_alone(world: World) -> None:
    world.save(1, [heap(1)])
    world.save(2, [heap(2)])
    assert world.deepest(2) == 0


def test_dropped_cuts_leave_what_later_ones_lie_over(world: World) -> None:
    memory = heap()
    for cut in (1, 2, 3):
        world.save(cut, [memory])
        memory = touched(memory, cut)
    world.shelf.store.drop(KEY.job, 1, 1)
    world.shelf.store.drop(KEY.job, 1, 2)
    world.shelf.sweep()
    world.check(3)
    world.shelf.store.drop(KEY.job, 1, 3)
    world.shelf.sweep()
    assert world.names() == []


def test_a_base_that_is_gone_is_not_built_upon(world: World) -> None:
    """Nor does a rank whose memory has not changed rely on a patch over it."""
    ranks = [heap(), touched(heap(), 1)]
    world.save(1, ranks)
    for name in [name for name in world.names() if "-" not in name]:
        del world.trays[name]
    with pytest.raises(ImageCorrupt):
        world.check(1)
    world.save(2, ranks)
    world.check(2)


def test_a_base_that_is_damaged_is_noticed_and_not_built_upon(world: World) -> None:
    memory = heap()
    world.save(1, [memory])
    for name in world.names():
        if len(world.trays[name][0]) > PAGE_BYTES:  # it holds memory
            world.trays[name] = (b"x" + world.trays[name][0][1:], 0.0)
    with pytest.raises(ImageCorrupt):
        world.check(1)
    world.save(2, [touched(memory, 1)])
    world.check(2)


def test_verify_reads_patches_too(world: World) -> None:
    other = heap()
    for seed in range(3):
        other = touched(other, seed, pages=1)
    image = world.save(1, [heap(), other])
    made = Checkpoint(1, 1, 1, 0.0, (image,))

    def verdict() -> tuple[bool, int]:
        found = verify(world.shelf.store, world.shelf.vault(KEY), KEY.job, made)
        return found.ok, len(found.faults)

    assert verdict() == (True, 0)
    patch = next(name for name in world.names() if "-" in name)
    del world.trays[patch]
    assert verdict() == (False, 1)
