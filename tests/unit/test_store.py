"""Laws of the store: what comes out is what went in, or an error; never something else."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import CheckpointFailed, ImageCorrupt, StaleIncarnation
from singularity.primitives.model import JobId, Sealing
from singularity.primitives.nodes import NodeId
from singularity.store.chunking import MEMORY_CHUNK_BYTES
from singularity.store.files import FileBlobs
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from singularity.store.marks import marked
from tests.unit.stores import Shelf, Trays, plane, shelf

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
@given(
    st.dictionaries(st.integers(0, 3), images, min_size=1, max_size=3),
    st.sampled_from(Sealing),
)
def test_what_was_saved_is_what_is_loaded(
    ranks: dict[int, dict[str, bytes]], sealing: Sealing
) -> None:
    with scratch() as root:
        store = shelf(root / "store", sealing)
        given_ = {r: dumped(root / str(r), f, {"/log": r}) for r, f in ranks.items()}
        image = store.save(KEY, 7, given_)
        assert (image.node, image.ranks, image.step) == (NODE, tuple(sorted(ranks)), 7)
        assert image.raw_bytes == sum(len(d) for f in ranks.values() for d in f.values())
        assert store.find(KEY) == image
        for rank, files in ranks.items():
            assert store.load(KEY, image.digest, rank, root / "out" / str(rank)) == {"/log": rank}
            assert contents_of(root / "out" / str(rank)) == files


def test_equal_memory_is_stored_once_and_zeros_never(tmp_path: Path) -> None:
    store = shelf(tmp_path / "store")
    memory = noise(3 * MEMORY_CHUNK_BYTES) + bytes(5 * MEMORY_CHUNK_BYTES)
    ranks = {r: dumped(tmp_path / str(r), {"pages-1.img": memory}) for r in range(4)}
    store.save(KEY, 1, ranks)
    assert len(chunks(tmp_path)) == 3
    again = store.save(ImageKey(JOB, 2, 2, NODE), 2, ranks)
    assert again.new_bytes == 0
    assert len(chunks(tmp_path)) == 3


@few
@given(st.data(), st.sampled_from(Sealing))
def test_any_damaged_byte_is_noticed(data: st.DataObject, sealing: Sealing) -> None:
    with scratch() as root:
        store = shelf(root / "store", sealing)
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
    store = shelf(tmp_path / "store")
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
    store = shelf(tmp_path / "store")
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
    store = shelf(tmp_path / "store")
    ranks = {0: dumped(tmp_path / "0", {"core-1.img": b"x"})}
    store.save(KEY, 1, ranks)
    store.store.fence(JOB, 3)
    store.store.fence(JOB, 2)  # late, and of no effect
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
        store = shelf(root / "store")
        saved = {}
        for number, files in enumerate(cuts):
            key = ImageKey(JOB, 1, number, NODE)
            saved[number] = store.save(key, 1, {0: dumped(root / str(number), files)})
        dropped = data.draw(st.sets(st.sampled_from(sorted(saved))))
        for number in dropped:
            store.store.drop(JOB, 1, number)
        assert store.sweep(HOUR_S).moved == 0, "too young to be judged"
        before = sum(path.stat().st_size for path in chunks(root))
        grow_old(chunks(root))
        freed = store.sweep(HOUR_S).freed_bytes
        assert freed == before - sum(path.stat().st_size for path in chunks(root))
        for number in set(saved) - dropped:
            key = ImageKey(JOB, 1, number, NODE)
            store.load(key, saved[number].digest, 0, root / "out" / str(number))
            assert contents_of(root / "out" / str(number)) == cuts[number]
        grow_old(chunks(root))
        assert store.sweep(HOUR_S).moved == 0
        if dropped == set(saved):
            assert chunks(root) == []


def test_an_interrupted_sweep_and_save_leave_only_litter(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = shelf(root)
    image = store.save(KEY, 1, {0: dumped(tmp_path / "0", {"core-1.img": b"x" * 99})})
    (chunk,) = chunks(tmp_path)
    (root / "trash" / "sweep").mkdir(parents=True)
    chunk.replace(root / "trash" / "sweep" / (chunk.parent.name + chunk.name))  # it died here
    litter = root / "incoming" / "dead-save"
    litter.mkdir()
    (litter / "chunk").write_bytes(b"half")
    grow_old([litter])
    store.load(KEY, image.digest, 0, tmp_path / "out")
    store.sweep(HOUR_S)
    assert chunks(tmp_path) == [chunk]
    assert not litter.exists()


def test_a_sweep_waits_for_a_save_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    store = shelf(tmp_path / "store")
    store.save(KEY, 1, {0: dumped(tmp_path / "0", {"core-1.img": b"x" * 99})})
    store.store.drop(JOB, 2, 1)
    sweeper = store.sweeper()
    with marked(store.blobs):
        assert sweeper.round().waiting
        assert sweeper.round().waiting and everything(tmp_path)
        (mark,) = (tmp_path / "store" / "saves").iterdir()
        grow_old([mark])
        assert sweeper.round().deleted == 1
    assert everything(tmp_path) == []


def test_a_save_that_may_have_been_found_dead_does_not_commit(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    with marked(blobs) as mark:
        mark.check()
        (name,) = (blob.name for blob in blobs.list("saves"))
        blobs.delete(name)
        with pytest.raises(TimeoutError):
            mark.check()


def test_a_manifest_that_cannot_be_read_stops_every_deletion(tmp_path: Path) -> None:
    """It may be that the wrong keys are used: then nothing at all would seem needed."""
    store = shelf(tmp_path / "store")
    store.save(KEY, 1, {0: dumped(tmp_path / "0", {"core-1.img": b"x" * 99})})
    stranger = Shelf(store.blobs, plane(Sealing.ENCRYPTED, seed=2))
    for other in (stranger, shelf(tmp_path / "store", Sealing.NONE)):
        with pytest.raises(ImageCorrupt):
            other.sweep()
    assert len(chunks(tmp_path)) == 1
    assert store.sweep().moved == 0


def test_a_broken_upload_goes_on_where_it_was(tmp_path: Path) -> None:
    """The store fails in the middle; what it took until then is not sent again."""
    sent: list[str] = []

    class Failing(Trays):
        def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
            if name.startswith("chunks/"):
                if len(sent) == 5:
                    raise OSError(5, "the line is down")
                sent.append(name)
            super().put(name, data, durable=durable)

    trays: dict[str, tuple[bytes, float]] = {}
    ranks = {0: dumped(tmp_path / "0", {"pages-1.img": noise(8 * MEMORY_CHUNK_BYTES)})}
    with pytest.raises(CheckpointFailed):
        Shelf(Failing(trays), plane(Sealing.ENCRYPTED)).save(KEY, 1, ranks)
    first, sent[:] = set(sent), []
    assert len(first) == 5 and Shelf(Trays(trays), plane(Sealing.ENCRYPTED)).find(KEY) is None
    image = Shelf(Failing(trays), plane(Sealing.ENCRYPTED)).save(KEY, 1, ranks)
    assert len(sent) == 3 and not first & set(sent)
    Shelf(Trays(trays), plane(Sealing.ENCRYPTED)).load(KEY, image.digest, 0, tmp_path / "out")


def test_images_that_vanish_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    store = shelf(tmp_path / "store")
    with pytest.raises(CheckpointFailed):
        store.save(KEY, 1, {0: RankImages(tmp_path / "nowhere")})
    assert store.find(KEY) is None
    assert everything(tmp_path) == []
