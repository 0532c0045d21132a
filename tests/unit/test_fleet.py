"""The fleet file: what it means, and that its mistakes are found before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.cli.fleet import Fleet, default_fleet, load_fleet
from singularity.primitives.errors import InvalidSpec


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


def test_the_default_is_three_regions_of_two_nodes_of_four_devices() -> None:
    nodes = default_fleet().nodes()
    assert {node.region for node in nodes} == {"us-east", "eu-north", "ap-south"}
    assert len(nodes) == 6 and {node.devices for node in nodes} == {4}


def test_nodes_are_numbered_over_the_planet_and_named_after_their_cluster(tmp_path: Path) -> None:
    text = "regions: {r: {clusters: {a: {nodes: 2}, b: {nodes: 1, device: h200, devices: 8}}}}"
    nodes = load_fleet(write(tmp_path, text)).nodes()
    assert [(node.name, node.index) for node in nodes] == [("a-1", 0), ("a-2", 1), ("b-1", 2)]
    assert (nodes[2].device, nodes[2].devices) == ("h200", 8)


def test_every_node_has_a_name_of_its_own_or_the_file_is_refused(tmp_path: Path) -> None:
    text = "regions: {r: {clusters: {a: {nodes: 1}}}, s: {clusters: {a: {nodes: 1}}}}"
    with pytest.raises(InvalidSpec, match="a-1"):
        load_fleet(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regions: {r: {clusters: {a: {nodes: 1, gpus: 4}}}}", "regions.r.clusters.a.gpus"),
        ("regions: {r: {clusters: {a: {nodes: 0}}}}", "regions.r.clusters.a.nodes"),
        ("regions: {r: {clusters: {}}}", "regions.r.clusters"),
        ("regions: {'R!': {clusters: {a: {nodes: 1}}}}", "regions"),
        ("regions: {r: {clusters: {a: {nodes: 255}, b: {nodes: 1}}}}", "256 nodes"),
        ("regions: [", "not YAML"),
        ("", "the top"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        load_fleet(write(tmp_path, text))
    assert says in refused.value.detail


def test_a_missing_file_is_a_refusal_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be read"):
        load_fleet(tmp_path / "none.yaml")


def test_a_fleet_survives_being_written_down() -> None:
    fleet = default_fleet()
    assert Fleet.model_validate_json(fleet.model_dump_json()) == fleet


def test_racks_take_nodes_in_order_and_evenly(tmp_path: Path) -> None:
    text = "regions: {r: {clusters: {a: {nodes: 5, racks: 2}, b: {nodes: 1}}}}"
    nodes = load_fleet(write(tmp_path, text)).nodes()
    assert [node.rack for node in nodes] == ["r1", "r1", "r1", "r2", "r2", ""]
