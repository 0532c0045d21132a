"""What goes from node to node arrives whole, as it was, and from whom it should; or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from singularity.agent import handover
from singularity.agent.gang import CutRef
from singularity.agent.handover import Handovers, Kept
from singularity.agent.layout import Layout
from singularity.agent.scratch import Scratch
from singularity.primitives.errors import ImageCorrupt, ImageForged, NodeUnreachable
from singularity.primitives.messages import Papers
from singularity.primitives.model import JobId, Sealing
from singularity.store.vault import Vault
from tests.unit.stores import PROJECT, plane

REF = CutRef(JobId("j"), 3, 2)
FILES = {"a.img": b"weights" + Random(1).randbytes(7_000_000), "b.img": b"", "page": bytes(4096)}

Frames = list[bytes]


def papers(sealing: Sealing, incarnation: int = 3, seed: int = 1) -> Papers | None:
    return plane(sealing, seed).papers(PROJECT, REF.job, incarnation)


def vault(sealing: Sealing) -> Vault:
    """Of the life that begins from it."""
    return Vault(papers(sealing, 4))


@pytest.fixture
def node(tmp_path: Path) -> Handovers:
    return agent(tmp_path)


def agent(root: Path) -> Handovers:
    scratch = Scratch(root / "scratch")
    return Handovers(Layout(root, root / "run", root, scratch), lambda node: f"{node}:1")


def keep(
    node: Handovers, papers: Papers | None, ref: CutRef = REF, ranks: tuple[int, ...] = (1,)
) -> Kept:
    kept = node.room(ref, papers, 0)
    for rank in ranks:
        (kept.directory / str(rank)).mkdir()
        for name, data in FILES.items():
            (kept.directory / str(rank) / name).write_bytes(data)
    return kept


def sent(node: Handovers, kept: Kept, rank: int = 1) -> Frames:
    parts = node.give(f"/handovers/{rank}", kept.token)
    assert parts is not None
    return list(parts)


def received(frames: Frames, vault: Vault, target: Path, rank: int = 1) -> dict[str, bytes]:
    target.mkdir()
    handover._received(io.BytesIO(b"".join(frames)), REF, rank, target, vault)
    return {file.name: file.read_bytes() for file in target.iterdir()}


@pytest.mark.parametrize("sealing", list(Sealing))
def test_files_arrive_as_they_were_and_encrypted_where_that_is_wanted(
    node: Handovers, sealing: Sealing, tmp_path: Path
) -> None:
    frames = sent(node, keep(node, papers(sealing)))
    assert received(frames, vault(sealing), tmp_path / "out") == FILES
    in_the_clear = any(b"weights" in frame for frame in frames)
    assert in_the_clear is (sealing is not Sealing.ENCRYPTED)


HARMS: dict[str, Callable[[Frames], Frames]] = {
    "one bit": lambda f: [f[0], f[1][:99] + bytes([f[1][99] ^ 1]) + f[1][100:], *f[2:]],
    "two frames in another order": lambda f: [f[0], f[2], f[1], *f[3:]],
    "a frame left out": lambda f: [f[0], *f[2:]],
    "a frame twice": lambda f: [f[0], f[1], *f[1:]],
    "another signature": lambda f: [*f[:-1], f[-1][:-9] + bytes(9)],
}


@pytest.mark.parametrize("sealing", [Sealing.SIGNED, Sealing.ENCRYPTED])
@pytest.mark.parametrize("harm", HARMS)
def test_a_stream_that_was_changed_is_refused(
    node: Handovers, sealing: Sealing, harm: str, tmp_path: Path
) -> None:
    frames = HARMS[harm](sent(node, keep(node, papers(sealing))))
    with pytest.raises((ImageCorrupt, ImageForged, EOFError)):
        received(frames, vault(sealing), tmp_path / "out")


@pytest.mark.parametrize("sealing", [Sealing.SIGNED, Sealing.ENCRYPTED])
def test_what_another_plane_rank_or_cut_has_sent_is_refused(
    node: Handovers, sealing: Sealing, tmp_path: Path
) -> None:
    forged = sent(node, keep(node, papers(sealing, seed=2)))
    other_rank = sent(node, keep(node, papers(sealing), ranks=(0,)), 0)
    other_cut = sent(node, keep(node, papers(sealing), CutRef(REF.job, 3, 1)))
    for number, frames in enumerate((forged, other_rank, other_cut)):
        with pytest.raises((ImageCorrupt, ImageForged)):
            received(frames, vault(sealing), tmp_path / str(number))


def test_every_early_end_is_seen(node: Handovers, tmp_path: Path) -> None:
    frames = sent(node, keep(node, papers(Sealing.ENCRYPTED)))
    for end in range(len(frames)):
        with pytest.raises(EOFError):
            received(frames[:end], vault(Sealing.ENCRYPTED), tmp_path / str(end))


def test_only_the_token_of_what_is_kept_opens_it_and_only_until_it_is_let_go(
    node: Handovers,
) -> None:
    kept = keep(node, papers(Sealing.NONE))
    refused = [("/handovers/1", "guessed"), ("/handovers/7", kept.token)]
    refused += [(f"/handovers/{path}", kept.token) for path in ("", "../1", "1/page", "²")]
    assert [node.give(path, token) for path, token in refused] == [None] * len(refused)
    node.let_go(REF.job, REF.incarnation - 1)
    assert node.give("/handovers/1", kept.token) is not None, "an older life's word"
    node.let_go(REF.job, REF.incarnation)
    node.let_go(REF.job, REF.incarnation)
    assert node.give("/handovers/1", kept.token) is None and not kept.directory.exists()


def test_a_newer_handover_of_a_job_replaces_the_older(node: Handovers) -> None:
    old = keep(node, papers(Sealing.NONE))
    new = keep(node, papers(Sealing.NONE), CutRef(REF.job, 3, 3))
    assert not old.directory.exists() and node.give("/handovers/1", old.token) is None
    node.clear()
    assert not new.directory.exists()


def test_the_next_agent_gives_what_the_one_before_kept_once_it_knows_of_it(
    node: Handovers, tmp_path: Path
) -> None:
    kept = keep(node, papers(Sealing.ENCRYPTED))
    node.stand(REF, {})
    second = agent(tmp_path)
    with pytest.raises(NodeUnreachable):
        second.give("/handovers/1", kept.token)
    second.recall((), {})
    assert received(sent(second, kept), vault(Sealing.ENCRYPTED), tmp_path / "out") == FILES


def test_what_was_dumped_for_a_cut_that_never_ended_is_not_kept(
    node: Handovers, tmp_path: Path
) -> None:
    kept = keep(node, papers(Sealing.NONE))
    node.stand(REF, {})
    second = agent(tmp_path)
    second.recall({(REF.job, REF.incarnation)}, {})
    assert second.give("/handovers/1", kept.token) is None and not kept.directory.exists()
