"""Nobody makes a manifest that the control plane has not warranted, and nothing that is stored
tells its content to who has no key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from singularity.primitives.errors import ImageCorrupt, ImageForged
from singularity.primitives.messages import Envelope, Start
from singularity.primitives.model import JobId, Sealing
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import VerifyKey
from singularity.store.imagestore import RankImages
from singularity.store.manifest import ImageKey, manifest_name
from singularity.store.vault import Vault
from tests.unit.stores import PROJECT, Shelf, Trays, plane

KEY = ImageKey(JobId("j-1"), 2, 1, NodeId("n-1"))
SEALED = [Sealing.SIGNED, Sealing.ENCRYPTED]
SECRET = b"the weights of somebody " * 400


@pytest.fixture
def ranks(tmp_path: Path) -> dict[int, RankImages]:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "pages-1.img").write_bytes(SECRET)
    return {0: RankImages(tmp_path / "0", {"/out/secret-name": 7})}


def shelf(sealing: Sealing, seed: int = 1) -> Shelf:
    return Shelf(Trays({}), plane(sealing, seed))


@pytest.mark.parametrize("sealing", SEALED)
def test_a_manifest_moved_to_another_job_life_cut_or_node_is_refused(
    sealing: Sealing, ranks: dict[int, RankImages], tmp_path: Path
) -> None:
    store = shelf(sealing)
    image = store.save(KEY, 5, ranks)
    stored = store.blobs.get(manifest_name(KEY))
    for other in (
        replace(KEY, job=JobId("j-2")),
        replace(KEY, incarnation=3),
        replace(KEY, cut=2),
        replace(KEY, node=NodeId("n-2")),
    ):
        store.blobs.put(manifest_name(other), stored)
        assert store.find(other) is None
        with pytest.raises(ImageCorrupt):
            store.load(other, image.digest, 0, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sealing", SEALED)
@pytest.mark.parametrize("forger", ["another plane", "another life", "nobody"])
def test_a_forged_manifest_is_refused_also_by_who_knows_its_digest(
    sealing: Sealing, forger: str, ranks: dict[int, RankImages], tmp_path: Path
) -> None:
    store = shelf(sealing)
    vault = {
        "another plane": Vault(plane(sealing, seed=2).papers(PROJECT, KEY.job, KEY.incarnation)),
        "another life": Vault(store.key.papers(PROJECT, KEY.job, KEY.incarnation - 1)),
        "nobody": Vault.open(),
    }[forger]
    image = store.store.save(KEY, 5, ranks, vault)
    assert store.find(KEY) is None
    with pytest.raises(ImageForged):
        store.load(KEY, image.digest, 0, tmp_path / "out")


def test_a_later_life_reads_what_an_earlier_one_saved(
    ranks: dict[int, RankImages], tmp_path: Path
) -> None:
    store = shelf(Sealing.ENCRYPTED)
    image = store.save(KEY, 5, ranks)
    later = Vault(store.key.papers(PROJECT, KEY.job, 9))
    outputs = store.store.load(KEY, image.digest, {0: tmp_path / "out"}, later)
    assert outputs == {0: {"/out/secret-name": 7}}
    assert (tmp_path / "out" / "pages-1.img").read_bytes() == SECRET


def test_what_is_stored_tells_nothing_and_equal_memory_meets_only_inside_a_project(
    ranks: dict[int, RankImages],
) -> None:
    trays: dict[str, tuple[bytes, float]] = {}
    store = Shelf(Trays(trays), plane(Sealing.ENCRYPTED))
    store.save(KEY, 5, ranks)
    once = {name for name in trays if name.startswith("chunks/")}
    again = replace(KEY, job=JobId("j-2"))
    assert store.save(again, 5, ranks).new_bytes == 0, "another job of the project"
    foreign = replace(KEY, job=JobId("j-3"))
    store.store.save(foreign, 5, ranks, store.vault(foreign, "speech"))
    names = {name for name in trays if name.startswith("chunks/")}
    assert len(names) == 2 * len(once), "the other project has chunks of its own"
    plain = "chunks/" + Vault.open().name(SECRET)[:2] + "/" + Vault.open().name(SECRET)[2:]
    assert plain not in names
    assert not any(b"weights of" in data or b"secret-name" in data for data, _ in trays.values())
    assert store.sweep().moved == 0, "the control plane reads the manifests of both"


def test_without_its_key_a_project_is_not_read(ranks: dict[int, RankImages]) -> None:
    store = shelf(Sealing.ENCRYPTED)
    store.save(KEY, 5, ranks)
    for vault in (Vault.open(), store.vault(KEY, "speech")):
        assert store.store.find(KEY, vault) is None


@pytest.mark.parametrize("sealing", Sealing)
def test_papers_travel_in_the_letter_and_only_there(sealing: Sealing) -> None:
    """What is kept in the database has none; the node that opens the letter has its own."""
    start = Start(
        job=KEY.job,
        node=KEY.node,
        incarnation=2,
        gang=(KEY.node,),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=("train",),
        project=PROJECT,
    )
    key = plane(sealing)
    sealed = key.seal(Envelope(node=KEY.node, epoch=1, seq=1, command=start))
    opened = VerifyKey(key.public).open(sealed, KEY.node).command
    assert isinstance(opened, Start)
    assert start.papers is None
    assert opened.papers == key.papers(PROJECT, KEY.job, 2)
    if opened.papers is not None:
        assert bool(opened.papers.key) is (sealing is Sealing.ENCRYPTED)
