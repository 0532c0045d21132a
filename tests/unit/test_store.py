"""Laws of the store: what comes out is what went in, or an error; never something else."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singularity.agent.chunking import MEMORY_CHUNK_BYTES
from singularity.agent.store import FileStore, ImageKey, RankImages
from singularity.primitives.errors import CheckpointFailed, ImageCorrupt, StaleIncarnation
from singularity.primitives.model import JobId, NodeId

JOB, NODE = JobId("j-1"), NodeId("n-1")
KEY = ImageKey(JOB, incarnation=2, cut=1, node=NODE)
HOUR_S = 3600.0

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.sampled_from(["pages-1.img", "core-1000.img", "files.img", "page"])
# Few distinct pages in any order: repeats, zeros and odd sizes are the interesting cases.
contents = st.builds(
    lambda pages, tail: b"".join(bytes([p]) * MEMORY_CHUNK_BYTES for p in pages) + tail,
    st.lists(st.integers(0, 3), max_size=4),
    st.binary(max_size=40),
)
images = st.dictionaries(names, contents, max_size=4)


def noise(size: int) -> bytes:
    """Incompressible, and the same in every run."""
    return random.Random(size).randbytes(size)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def dumped(root: Path, files: dict[str, bytes], sizes: dict[str, int] | None = None) -> RankImages:
    root.mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return RankImages(root, sizes or {})


def contents_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def chunks(root: Path) -> list[Path]:
    return sorted((root / "store" / "chunks").glob("??/*"))


def everything(root: Path) -> list[Path]:
    return sorted(p for p in (root / "store").rglob("*") if p.is_file() and p.name[0] != ".")


def grow_old(paths: list[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):  # swept away already
            os.utime(path, (1.0, 1.0))


@few
@given(st.dictionaries(st.integers(0, 3), images, min_size=1, max_size=3))
def test_what_was_saved_is_what_is_loaded(ranks: dict[int, dict[str, bytes]]) -> None:
    with scratch() as root:
        store = FileStore(root / "store")
        given_ = {r: dumped(root / str(r), f, {"/log": r}) for r, f in ranks.items()}
        image = store.save(KEY, 7, given_)
        assert (image.node, image.ranks, image.step) == (NODE, tuple(sorted(ranks)), 7)
        assert image.raw_bytes == sum(len(d) for f in ranks.values() for d in f.values())
        assert store.find(KEY) == image
        for rank, files in ranks.items():
            assert store.load(KEY, image.digest, rank, root / "out" / str(rank)) == {"/log": rank}
            assert contents_of(root / "out" / str(rank)) == files


def test_equal_memory_is_stored_once_and_zeros_never(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    memory = noise(3 * MEMORY_CHUNK_BYTES) + bytes(5 * MEMORY_CHUNK_BYTES)
    ranks = {r: dumped(tmp_path / str(r), {"pages-1.img": memory}) for r in range(4)}
    store.save(KEY, 1, ranks)
    assert len(chunks(tmp_path)) == 3
    again = store.save(ImageKey(JOB, 2, 2, NODE), 2, ranks)
    assert again.new_bytes == 0
    assert len(chunks(tmp_path)) == 3


@few
@given(st.data())
def test_any_damaged_byte_is_noticed(data: st.DataObject) -> None:
    with scratch() as root:
        store = FileStore(root / "store")
        files = {"pages-1.img": noise(MEMORY_CHUNK_BYTES + 100), "core-1.img": b"core" * 9}
        image = store.save(KEY, 1, {0: dumped(root / "0", files)})
        victim = data.draw(st.sampled_from(range(len(everything(root)))))
        path = everything(root)[victim]
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        content[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            store.load(KEY, image.digest, 0, root / "out")
        except ImageCorrupt:
            assert not (root / "out").exists()
        else:  # a byte of the compressed frame that does not matter to what comes out of it
            assert contents_of(root / "out") == files


@pytest.mark.parametrize("harm", ["truncate", "delete", "empty"])
def test_an_incomplete_chunk_is_named(tmp_path: Path, harm: str) -> None:
    store = FileStore(tmp_path / "store")
    image = store.save(KEY, 1, {0: dumped(tmp_path / "0", {"pages-1.img": noise(5000)})})
    (chunk,) = chunks(tmp_path)
    if harm == "delete":
        chunk.unlink()
    else:
        os.truncate(chunk, 2500 if harm == "truncate" else 0)
    with pytest.raises(ImageCorrupt) as caught:
        store.load(KEY, image.digest, 0, tmp_path / "out")
    assert caught.value.facts["chunk"] == chunk.parent.name + chunk.name
    assert not (tmp_path / "out").exists()


def test_another_manifest_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    ranks = {0: dumped(tmp_path / "0", {"pages-1.img": b"x" * 5000})}
    first = store.save(KEY, 1, ranks)
    store.save(KEY, 2, ranks)
    with pytest.raises(ImageCorrupt):
        store.load(KEY, first.digest, 0, tmp_path / "out")
    with pytest.raises(ImageCorrupt):
        store.load(ImageKey(JOB, 9, 9, NODE), first.digest, 0, tmp_path / "out")
    found = store.find(KEY)
    assert found is not None
    with pytest.raises(ImageCorrupt):
        store.load(KEY, found.digest, 3, tmp_path / "out")


def test_a_fenced_life_may_not_save(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    ranks = {0: dumped(tmp_path / "0", {"core-1.img": b"x"})}
    store.save(KEY, 1, ranks)
    store.fence(JOB, 3)
    store.fence(JOB, 2)  # late, and of no effect
    with pytest.raises(StaleIncarnation):
        store.save(ImageKey(JOB, 2, 2, NODE), 1, ranks)
    assert store.find(ImageKey(JOB, 2, 2, NODE)) is None
    assert store.find(KEY) is not None, "what was saved in time stays"
    store.save(ImageKey(JOB, 3, 1, NODE), 1, ranks)
    store.save(ImageKey(JobId("j-2"), 1, 1, NODE), 1, ranks)


@few
@given(st.lists(images, min_size=2, max_size=4), st.data())
def test_a_sweep_keeps_exactly_what_is_needed(
    cuts: list[dict[str, bytes]], data: st.DataObject
) -> None:
    with scratch() as root:
        store = FileStore(root / "store")
        saved = {}
        for number, files in enumerate(cuts):
            key = ImageKey(JOB, 1, number, NODE)
            saved[number] = store.save(key, 1, {0: dumped(root / str(number), files)})
        dropped = data.draw(st.sets(st.sampled_from(sorted(saved))))
        for number in dropped:
            store.drop(JOB, 1, number)
        assert store.sweep(HOUR_S) == 0, "too young to be judged"
        grow_old(chunks(root))
        store.sweep(HOUR_S)
        for number in set(saved) - dropped:
            key = ImageKey(JOB, 1, number, NODE)
            store.load(key, saved[number].digest, 0, root / "out" / str(number))
            assert contents_of(root / "out" / str(number)) == cuts[number]
        grow_old(chunks(root))
        assert store.sweep(HOUR_S) == 0
        if dropped == set(saved):
            assert chunks(root) == []


def test_a_sweep_beside_a_save_takes_nothing_from_it(tmp_path: Path) -> None:
    """The save relies on old chunks nobody else needs, while sweeps run all the time."""
    store, other = FileStore(tmp_path / "store"), FileStore(tmp_path / "store")
    memory = noise(6 * MEMORY_CHUNK_BYTES)
    ranks = {0: dumped(tmp_path / "0", {"pages-1.img": memory})}
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            other.sweep(HOUR_S)

    with ThreadPoolExecutor(1) as pool:
        sweeper = pool.submit(sweep)
        try:
            for cut in range(15):
                key = ImageKey(JOB, 1, cut, NODE)
                image = store.save(key, cut, ranks)
                store.load(key, image.digest, 0, tmp_path / "out" / str(cut))
                store.drop(JOB, 1, cut)
                grow_old(chunks(tmp_path))
        finally:
            done.set()
        sweeper.result()


def test_an_interrupted_sweep_and_save_leave_only_litter(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = FileStore(root)
    image = store.save(KEY, 1, {0: dumped(tmp_path / "0", {"core-1.img": b"x" * 99})})
    (chunk,) = chunks(tmp_path)
    grow_old([chunk])
    chunk.replace(root / "trash" / (chunk.parent.name + chunk.name))  # a sweep died here
    litter = root / "incoming" / "dead-save"
    litter.mkdir()
    (litter / "chunk").write_bytes(b"half")
    grow_old([litter])
    store.load(KEY, image.digest, 0, tmp_path / "out")
    store.sweep(HOUR_S)
    assert chunks(tmp_path) == [chunk]
    assert not litter.exists()


def test_images_that_vanish_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    with pytest.raises(CheckpointFailed):
        store.save(KEY, 1, {0: RankImages(tmp_path / "nowhere")})
    assert store.find(KEY) is None
    assert everything(tmp_path) == []
