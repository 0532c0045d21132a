"""A checkpoint is good exactly when every byte of it is what was saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from singularity.primitives.model import Checkpoint, JobId
from singularity.primitives.nodes import NodeId
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey
from singularity.store.verify import Verdict, verify
from tests.unit.stores import shelf

_JOB = JobId("j1")
_KEY = ImageKey(_JOB, 3, 2, NodeId("n1"))


def _verdict(volume: Path, made: Checkpoint) -> Verdict:
    return verify(shelf(volume).store, shelf(volume).vault(_KEY), _JOB, made)


def _saved(volume: Path, scratch: Path) -> Checkpoint:
    scratch.mkdir()
    (scratch / "pages-1.img").write_bytes(bytes(range(256)) * 64 + bytes(8192))
    (scratch / "core-7.img").write_bytes(b"core")
    image = shelf(volume).save(_KEY, 17, {0: RankImages(scratch), 1: RankImages(scratch)})
    return Checkpoint(3, 2, 17, 100.0, (image,))


def _manifest(volume: Path) -> Path:
    return volume / "manifests" / _JOB / "3-2" / "n1"


def _some_chunk(volume: Path) -> Path:
    return next(p for p in sorted((volume / "chunks").rglob("*")) if p.is_file())


def test_what_was_saved_is_good(tmp_path: Path) -> None:
    made = _saved(tmp_path / "volume", tmp_path / "scratch")
    found = _verdict(tmp_path / "volume", made)
    assert found.ok and found.faults == ()
    assert found.chunks == sum(p.is_file() for p in (tmp_path / "volume/chunks").rglob("*"))
    assert found.bytes > 256 * 64


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", [_some_chunk, _manifest])
@pytest.mark.parametrize("harm", [_flip, Path.unlink, lambda p: p.write_bytes(b"")])
def test_any_damage_is_found(
    tmp_path: Path, which: Callable[[Path], Path], harm: Callable[[Path], object]
) -> None:
    volume = tmp_path / "volume"
    made = _saved(volume, tmp_path / "scratch")
    harm(which(volume))
    found = _verdict(volume, made)
    assert not found.ok and len(found.faults) == 1


def test_a_manifest_without_a_rank_that_it_should_hold_is_a_fault(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    made = _saved(volume, tmp_path / "scratch")
    more = replace(made, shards=(replace(made.shards[0], ranks=(0, 1, 2)),))
    assert _verdict(volume, more).faults == ("n1: ranks [2] are not in its manifest",)


def test_a_chunk_on_its_way_out_is_still_there(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    made = _saved(volume, tmp_path / "scratch")
    chunk = _some_chunk(volume)
    (volume / "trash" / "sweep").mkdir(parents=True)
    chunk.replace(volume / "trash" / "sweep" / (chunk.parent.name + chunk.name))
    assert _verdict(volume, made).ok
