"""Real dumps and restores: nothing lost, nothing twice, and every failure leaves a rank unharmed
or no rank at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import (
    COUNT,
    FOREVER,
    as_nobody,
    counts_on,
    ended,
    lines,
    network,
    python,
    small_disk,
    spec,
    until,
)

from singularity.agent.checkpoint import Checkpointer, CriuCheckpointer, SuspendInPlace
from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.cgroup import Limits
from singularity.agent.runtime.network import HostNetwork, Network
from singularity.agent.runtime.processes import descendants
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.errors import (
    CheckpointFailed,
    ImageCorrupt,
    RestoreFailed,
    StoreFull,
)
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from tests.unit.stores import shelf

DEADLINE_S = 20.0
KEY = ImageKey(JobId("j-1"), 1, 1, NodeId("n-1"))
CRIU = find_criu(os.environ.get("SINGULARITY_CRIU", ""))

Make = Callable[[str], Sandbox]


@pytest.fixture(scope="module")
def criu() -> CriuCheckpointer:
    verdict = probe(CRIU)
    if not verdict.ok or CRIU is None:
        pytest.skip(f"this machine cannot checkpoint: {verdict.reason}")
    return CriuCheckpointer(CRIU)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, net: Network) -> Iterator[Make]:
    made: list[Sandbox] = []

    def create(name: str) -> Sandbox:
        made.append(Sandbox.create(tmp_path / name, net))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.remove()


def is_gapless(log: Path) -> bool:
    written = lines(log)  # read once: who counts goes on meanwhile
    return written == [str(i) for i in range(len(written))]


def test_a_rank_goes_on_elsewhere_as_if_nothing_had_been(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """Dumped while it runs; runs on; is rolled back to the dump in another sandbox with another
    address; ends there by itself, and its end is told."""
    log, images = tmp_path / "log", tmp_path / "images"
    first, second = make("first"), make("second")
    first.launch(spec(tmp_path, python(COUNT, "300")))
    counts_on(log)
    dump = criu.dump(first, images)
    counts_on(log, more=5)
    first.kill()
    assert log.stat().st_size > dump.files[str(log)] > 0
    assert first.address != second.address or not first.address
    criu.restore(second, images, DEADLINE_S)
    assert second.pid is not None
    assert second.inner_pid == first.inner_pid
    ended(second)
    record = second.exit()
    assert record is not None
    assert record.code == 5
    assert lines(log) == [str(i) for i in range(301)]


def test_one_dump_serves_many_lives(criu: CriuCheckpointer, make: Make, tmp_path: Path) -> None:
    log, images = tmp_path / "log", tmp_path / "images"
    first = make("first")
    first.launch(spec(tmp_path, python(COUNT, FOREVER)))
    counts_on(log)
    dump = criu.dump(first, images)
    first.kill()
    at_dump = log.read_bytes()[: dump.files[str(log)]]
    for name in ("second", "third"):
        sandbox = make(name)
        criu.restore(sandbox, images, DEADLINE_S)
        counts_on(log)
        assert log.read_bytes().startswith(at_dump)
        assert is_gapless(log)
        sandbox.kill()


def test_what_was_forked_after_a_restore_survives_the_next(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """Pids of restored processes, of CRIU's own and of new ones must never meet."""
    code = """
import os, time
while True:
    if os.path.exists("fork"):
        os.remove("fork")
        if os.fork() == 0:
            for i in range(1 << 30): time.sleep(0.01)
    children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read()
    print("children", children, flush=True)
    time.sleep(0.01)
"""
    log = tmp_path / "log"
    sandbox = make("first")
    sandbox.launch(spec(tmp_path, python(code)))
    for life in range(3):
        (tmp_path / "fork").touch()
        until(lambda: not (tmp_path / "fork").exists(), "the rank forks")
        counts_on(log)
        family = sorted(lines(log)[-1].split())
        assert len(family) == life + 2
        criu.dump(sandbox, tmp_path / f"images-{life}")
        sandbox.kill()
        sandbox = make(f"life-{life}")
        criu.restore(sandbox, tmp_path / f"images-{life}", DEADLINE_S)
        counts_on(log)
        assert sorted(lines(log)[-1].split()) == family
        assert len(list(descendants(sandbox.supervisor.pid))) == life + 2


def test_restored_ranks_are_limited_and_can_be_adopted(
    criu: CriuCheckpointer, tmp_path: Path
) -> None:
    log, images, limits = tmp_path / "log", tmp_path / "images", Limits(memory_bytes=256 << 20)
    first = Sandbox.create(tmp_path / "first", HostNetwork(""), limits)
    second = Sandbox.create(tmp_path / "second", HostNetwork(""), limits)
    try:
        first.launch(spec(tmp_path, python(f"b = b'x' * (50 << 20)\n{COUNT}", FOREVER)))
        counts_on(log)
        criu.dump(first, images)
        first.kill()
        criu.restore(second, images, DEADLINE_S)
        adopted = Sandbox.adopt(second.directory)
        assert adopted is not None
        assert adopted.pid == second.pid
        if not second.unlimited:
            usage = adopted.usage()
            assert usage is not None
            assert usage.memory_bytes > 50 << 20
        criu.dump(adopted, tmp_path / "again")
        counts_on(log)
    finally:
        first.remove()
        second.remove()


def test_dumps_of_one_rank_wait_for_each_other(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """As when an agent died during a dump and the next one repeats it."""
    sandbox = make("first")
    sandbox.launch(spec(tmp_path, python(COUNT, FOREVER)))
    counts_on(tmp_path / "log")
    with ThreadPoolExecutor() as pool:
        dumps = list(pool.map(lambda i: criu.dump(sandbox, tmp_path / f"images-{i}"), range(3)))
    assert all(dump.bytes > 0 for dump in dumps)
    counts_on(tmp_path / "log")


def test_several_output_files_are_cut_back(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """Also one that is open for reading and writing; not one that is only read."""
    (tmp_path / "input").write_text("x" * 99)
    code = """
import time
given, both = open("input"), open("both", "w+")
for i in range(1 << 30):
    print(i, flush=True); print(i, file=both, flush=True); time.sleep(0.01)
"""
    log, both, images = tmp_path / "log", tmp_path / "both", tmp_path / "images"
    first = make("first")
    first.launch(spec(tmp_path, python(code)))
    counts_on(both)
    dump = criu.dump(first, images)
    counts_on(both)
    first.kill()
    assert set(dump.files) == {str(log), str(both)}
    criu.restore(make("second"), images, DEADLINE_S)
    counts_on(both)
    assert is_gapless(both)
    assert is_gapless(log)


def test_a_dump_that_cannot_be_leaves_the_rank_running_and_says_why(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """It holds a connection, which cannot move."""
    code = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
for i in range(1 << 30): print(i, flush=True); time.sleep(0.01)
"""
    sandbox = make("first")
    sandbox.launch(spec(tmp_path, python(code)))
    counts_on(tmp_path / "log")
    with pytest.raises(CheckpointFailed, match="has a TCP connection"):
        criu.dump(sandbox, tmp_path / "images")
    counts_on(tmp_path / "log")


def test_a_dump_to_a_full_disk_leaves_the_rank_running(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "8m") as small:
        sandbox = make("first")
        sandbox.launch(spec(tmp_path, python(f"b = b'x' * (30 << 20)\n{COUNT}", FOREVER)))
        counts_on(tmp_path / "log")
        with pytest.raises(StoreFull):
            criu.dump(sandbox, small / "images")
        assert any((small / "images").glob("pages-*.img")), "it had begun"
        counts_on(tmp_path / "log")
        criu.dump(sandbox, tmp_path / "images")
        sandbox.kill()


def test_a_rank_that_is_gone_cannot_be_dumped(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    sandbox = make("first")
    for checkpointer in (criu, SuspendInPlace("a test")):
        sandbox.kill()
        with pytest.raises(CheckpointFailed, match="no rank"):
            checkpointer.dump(sandbox, tmp_path / "images")


@pytest.mark.parametrize("harm", ["half the pages", "no pages", "no files", "empty"])
def test_damaged_images_end_in_an_error_in_time_and_in_nothing_else(
    criu: CriuCheckpointer, make: Make, tmp_path: Path, harm: str
) -> None:
    images = tmp_path / "images"
    first, second = make("first"), make("second")
    first.launch(spec(tmp_path, python(f"b = b'x' * (9 << 20)\n{COUNT}", FOREVER)))
    counts_on(tmp_path / "log")
    criu.dump(first, images)
    first.kill()
    pages = images / "pages-1.img"
    match harm:
        case "half the pages":
            os.truncate(pages, pages.stat().st_size // 8192 * 4096)
        case "no pages":
            pages.unlink()
        case "no files":
            (images / "files.img").unlink()
        case _:
            for path in images.iterdir():
                path.unlink()
    with pytest.raises(RestoreFailed):
        criu.restore(second, images, deadline_s=3.0)
    assert not second.alive()
    assert second.exit() is None


def test_a_restore_that_hangs_is_given_up_in_time(make: Make, tmp_path: Path) -> None:
    """A stand-in for CRIU that hangs, and has already brought something to life."""
    hanging = tmp_path / "criu"
    hanging.write_text("#!/bin/sh\nsleep 1000 &\nsleep 1000\n")
    hanging.chmod(0o755)
    images = tmp_path / "images"
    images.mkdir()
    (images / "outputs.json").write_text('{"pid": 1000, "sizes": {}}')
    (images / "core-1000.img").touch()
    sandbox = make("first")
    with pytest.raises(RestoreFailed, match=r"0\.2 s"):
        CriuCheckpointer(hanging).restore(sandbox, images, deadline_s=0.2)
    assert not sandbox.alive()


# -- with the store ------------------------------------------------------------------------------


def test_a_rank_travels_through_the_store(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """And one damaged byte on the way is noticed before anything is restored from it."""
    log, images = tmp_path / "log", tmp_path / "images"
    store = shelf(tmp_path / "store")
    first = make("first")
    first.launch(spec(tmp_path, python(COUNT, FOREVER)))
    counts_on(log)
    dump = criu.dump(first, images)
    image = store.save(KEY, 1, {0: RankImages(images, dump.files)})
    again = store.save(KEY, 1, {0: RankImages(images, dump.files)})
    assert again.new_bytes == 0
    first.kill()
    assert store.load(KEY, again.digest, 0, tmp_path / "fetched") == dump.files
    criu.restore(make("second"), tmp_path / "fetched", DEADLINE_S)
    counts_on(log)
    assert is_gapless(log)
    chunk = max((tmp_path / "store/chunks").glob("??/*"), key=lambda p: p.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ImageCorrupt, match=chunk.parent.name + chunk.name):
        store.load(KEY, again.digest, 0, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()
    assert image.raw_bytes == again.raw_bytes


def test_a_full_store_says_so_and_has_room_again_afterwards(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "pages-1.img").write_bytes(os.urandom(6 << 20))
    with small_disk(tmp_path / "small", "4m") as small:
        store = shelf(small)
        with pytest.raises(StoreFull):
            store.save(KEY, 1, {0: RankImages(images)})
        assert store.find(KEY) is None
        (images / "pages-1.img").write_bytes(os.urandom(2 << 20))
        image = store.save(KEY, 1, {0: RankImages(images)})
        with pytest.raises(StoreFull):
            store.load(KEY, image.digest, 0, small / "no-room")
        assert not (small / "no-room").exists()
        store.load(KEY, image.digest, 0, tmp_path / "room")
    assert (tmp_path / "room/pages-1.img").read_bytes() == (images / "pages-1.img").read_bytes()


# -- without CRIU --------------------------------------------------------------------------------


def test_suspended_in_place_a_rank_goes_on_there_and_only_there(make: Make, tmp_path: Path) -> None:
    log, images = tmp_path / "log", tmp_path / "images"
    first, second = make("first"), make("second")
    first.launch(spec(tmp_path, python(COUNT, FOREVER)))
    counts_on(log)
    engine: Checkpointer = SuspendInPlace("a test")
    assert not engine.transparent
    engine.dump(first, images)
    counts_on(log)
    first.freeze()
    state = Path(f"/proc/{first.pid}/stat")
    until(lambda: state.read_text().split()[2] == "T", "the rank stops")
    with pytest.raises(RestoreFailed, match="in place"):
        engine.restore(second, images, DEADLINE_S)
    engine.restore(first, images, DEADLINE_S)
    counts_on(log)
    assert is_gapless(log)
    first.kill()
    with pytest.raises(RestoreFailed, match="gone"):
        engine.restore(first, images, DEADLINE_S)


def test_a_probe_says_what_is_missing(tmp_path: Path) -> None:
    broken = tmp_path / "criu"
    broken.write_text("#!/bin/sh\necho 'wrong library' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "not installed" in probe(None).reason
    assert "does not start" in probe(tmp_path / "nowhere").reason
    assert "wrong library" in probe(broken).reason
    assert find_criu(str(broken)) == broken


def test_an_ordinary_user_can_checkpoint_too(criu: CriuCheckpointer) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests have just shown it")
    code = "import sys; from pathlib import Path; from singularity.agent.proof import probe;"
    done = as_nobody(f"{code} print(probe(Path({str(criu.criu)!r})))")
    if "ok=True" not in done.stdout and "not permitted" in done.stdout + done.stderr:
        pytest.skip(f"not on this machine: {done.stdout}{done.stderr}")
    assert "ok=True" in done.stdout, done.stdout + done.stderr
