"""The store in an object store that speaks S3: a real client, and moto's server on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import JOB, origin, planet
from sandboxes import COUNT, FOREVER, counts_on, lines, python

from singularity.agent.proof import find_criu, probe
from singularity.primitives.errors import CheckpointFailed, ImageCorrupt, StaleIncarnation
from singularity.primitives.model import JobId, Sealing
from singularity.primitives.nodes import NodeId
from singularity.store.blobs import Blobs
from singularity.store.files import FileBlobs
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from singularity.store.objects import ObjectBlobs
from singularity.store.places import open_blobs
from tests.unit.memory import dump_memory
from tests.unit.stores import Shelf, plane

KEY = ImageKey(JobId("j-1"), 1, 1, NodeId("n-1"))
START_S = 60.0
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, with a bucket in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("moto") / "log"
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        try:
            end_s = time.monotonic() + START_S
            while not _answers(f"{url}/moto-api/"):
                assert process.poll() is None and time.monotonic() < end_s, log.read_text()
                time.sleep(0.05)
            make = urllib.request.Request(f"{url}/bucket", b"", method="PUT")
            urllib.request.urlopen(make).close()
            yield url
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A place of this test's own."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(params=["directory", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "directory":
        return FileBlobs(tmp_path / "store")
    return open_blobs(request.getfixturevalue("bucket"))


def test_places_are_named_by_url(bucket: str, tmp_path: Path) -> None:
    assert isinstance(open_blobs(bucket), ObjectBlobs)
    assert isinstance(open_blobs(tmp_path), FileBlobs)
    assert isinstance(open_blobs(f"file://{tmp_path}"), FileBlobs)
    with pytest.raises(ValueError, match="gopher"):
        open_blobs("gopher://x")


def test_both_keepers_obey_the_same_laws(blobs: Blobs) -> None:
    began_s = blobs.now_s()
    for missing in (lambda: blobs.get("a/x"), lambda: blobs.move("a/x", "b/x")):
        with pytest.raises(FileNotFoundError):
            missing()
    blobs.delete("a/x")
    assert not blobs.has("a/x") and list(blobs.list("a")) == []
    blobs.put("a/x", b"one")
    blobs.put("a/x", b"three")
    blobs.put("ab/y", b"")
    assert blobs.has("a/x") and blobs.get("a/x") == b"three"
    assert [(blob.name, blob.bytes) for blob in blobs.list("a")] == [("a/x", 5)]
    assert all(blob.at_s >= began_s - 1.0 for blob in blobs.list("a"))
    blobs.move("a/x", "c/d/x")
    assert not blobs.has("a/x") and blobs.get("c/d/x") == b"three"
    with blobs.stage() as stage:
        for number in range(40):
            stage.put(f"many/{number}", bytes([number]) * number)
        stage.settle()
    assert {blob.name: blob.bytes for blob in blobs.list("many")} == {
        f"many/{number}": number for number in range(40)
    }
    blobs.delete("c/d/x")
    assert not blobs.has("c/d/x")
    assert blobs.now_s() >= began_s


def test_a_store_in_a_bucket_saves_loads_notices_damage_and_is_swept(
    bucket: str, tmp_path: Path
) -> None:
    store = Shelf(open_blobs(bucket), plane(Sealing.ENCRYPTED))
    memory = os.urandom(3 << 20)
    for cut in (1, 2):
        memory = memory[:4096] + os.urandom(8) + memory[4104:]
        dump_memory(tmp_path / str(cut), {1 << 32: memory})
        key = ImageKey(KEY.job, 1, cut, KEY.node)
        image = store.save(key, cut, {0: RankImages(tmp_path / str(cut), {"/log": cut})})
        assert store.find(key) == image
    assert image.new_bytes < 10_000
    assert store.load(key, image.digest, 0, tmp_path / "out") == {"/log": 2}
    assert (tmp_path / "out" / "pages-1.img").read_bytes() == memory
    store.store.drop(KEY.job, 1, 1)
    store.sweep()
    store.load(key, image.digest, 0, tmp_path / "again")
    victim = max(store.blobs.list("chunks"), key=lambda blob: blob.bytes)
    damaged = bytearray(store.blobs.get(victim.name))
    damaged[-1] ^= 1
    store.blobs.put(victim.name, bytes(damaged))
    with pytest.raises(ImageCorrupt):
        store.load(key, image.digest, 0, tmp_path / "not")
    store.store.fence(KEY.job, 2)
    with pytest.raises(StaleIncarnation):
        store.save(key, 3, {0: RankImages(tmp_path / "2")})
    store.store.forget(KEY.job)
    store.sweep()
    assert [b.name for top in ("chunks", "manifests", "trash") for b in store.blobs.list(top)] == []


def test_a_bucket_that_is_not_there_fails_the_save(bucket: str, tmp_path: Path) -> None:
    dump_memory(tmp_path / "0", {1 << 32: bytes(4096)})
    store = Shelf(open_blobs("s3://nowhere/x"), plane(Sealing.ENCRYPTED))
    with pytest.raises(CheckpointFailed, match="cannot be stored"):
        store.save(KEY, 1, {0: RankImages(tmp_path / "0")})


@pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)
def test_a_rank_moves_from_node_to_node_through_a_bucket(bucket: str, tmp_path: Path) -> None:
    """A small one: the server on the other side is a Python program."""
    with planet(tmp_path, f"sgo{os.getpid() % 0xFFFFFF:x}") as world:
        world.store = bucket
        count = {"run": python(COUNT, FOREVER)}
        here = world.start({"a": (0,)}, 1, 0)["a"].model_copy(update=count)
        there = world.start({"b": (0,)}, 2, 0)["b"].model_copy(update=count)
        log = world.node("a").layout.log(JOB, 0)
        world.node("a").send(here)
        assert world.node("a").report().phase == "running"
        counts_on(log)
        world.node("a").cut(1, 1, keep_running=False)
        gone = world.node("a").report()
        assert gone.phase == "dumped", gone.reason
        world.node("b").send(there.model_copy(update={"origin": origin(gone)}))
        assert world.node("b").report().phase == "running"
        counts_on(log)
        assert lines(log) == [str(number) for number in range(len(lines(log)))]
        assert not (world.root / "volume" / "chunks").exists(), "nothing went through the volume"
