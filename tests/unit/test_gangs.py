"""Topology: racks are asked before clusters, nodes before racks; whole blocks are kept whole."""

from __future__ import annotations

import numpy as np
import pytest

from singularity.scheduler.fleet.gangs import Fleet, Gang, Rows
from singularity.scheduler.fleet.layout import Level, lay_out

NODES = 8  # two clusters of two racks of two nodes


def fleet(*free: int) -> Fleet:
    rows = np.arange(NODES)
    zeros = np.zeros(NODES, dtype=np.int32)
    cluster, rack = (rows // 4).astype(np.int32), (rows // 2).astype(np.int32)
    return Fleet.build(lay_out(zeros, cluster, zeros, rack), np.array(free), 8)


def find(made: Fleet, gang: Gang) -> Rows:
    return made.find(gang, np.ones(len(made.layout.start), dtype=np.uint8))


def test_the_tail_goes_where_it_fits_best() -> None:
    assert find(fleet(8, 8, 8, 4, 0, 0, 0, 0), Gang(20)) == ((0, 8), (1, 8), (3, 4))


def test_a_hole_is_filled_before_a_whole_node_is_broken() -> None:
    assert find(fleet(8, 8, 8, 8, 8, 8, 8, 2), Gang(2)) == ((7, 2),)


def test_of_clusters_alike_the_tightest_is_taken() -> None:
    assert find(fleet(8, 8, 8, 8, 8, 8, 8, 0), Gang(8)) == ((4, 8),)


def test_fewer_nodes_come_before_a_tighter_cluster() -> None:
    assert find(fleet(4, 4, 0, 0, 8, 8, 8, 8), Gang(8)) == ((4, 8),)


def test_a_preferred_rack_is_left_only_when_none_holds_the_gang() -> None:
    made = fleet(8, 4, 8, 4, 6, 6, 4, 8)
    assert find(made, Gang(12, prefer=Level.RACK)) == ((0, 8), (1, 4))
    assert find(made, Gang(14, prefer=Level.RACK)) == ((4, 6), (7, 8))
    assert find(made, Gang(14, within=Level.RACK)) == ()


def test_one_node_is_one_node() -> None:
    made = fleet(4, 4, 4, 4, 4, 4, 4, 4)
    assert find(made, Gang(5, within=Level.NODE)) == ()
    assert find(made, Gang(4, within=Level.NODE)) == ((0, 4),)


def test_a_gang_across_clusters_stays_in_its_region() -> None:
    made = fleet(8, 8, 8, 8, 8, 8, 8, 8)
    assert find(made, Gang(40)) == ()
    assert len(find(made, Gang(40, within=Level.REGION))) == 5


def test_spread_over_racks_and_nodes() -> None:
    made = fleet(8, 8, 8, 8, 0, 0, 0, 0)
    assert find(made, Gang(4, spread=Level.NODE)) == ((0, 1), (1, 1), (2, 1), (3, 1))
    assert find(made, Gang(4, spread=Level.RACK)) == ((0, 2), (2, 2))
    assert find(made, Gang(5, spread=Level.RACK)) == ((0, 3), (2, 2))


def test_a_rank_lies_on_one_node() -> None:
    assert find(fleet(5, 5, 5, 5, 0, 0, 0, 0), Gang(3, unit=4)) == ((0, 4), (1, 4), (2, 4))
    assert find(fleet(3, 3, 3, 3, 3, 3, 3, 3), Gang(1, unit=4)) == ()


def test_where_it_may_not_go_it_does_not() -> None:
    made = fleet(8, 8, 8, 8, 8, 8, 8, 8)
    ranks = np.where(made.layout.cluster == 1, 1, 0).astype(np.uint8)
    assert made.find(Gang(8), ranks) == ((4, 8),)
    near = np.where(made.layout.cluster == 1, 1, 2).astype(np.uint8)
    assert made.find(Gang(24), near) == ((4, 8), (5, 8), (6, 8))


@pytest.mark.parametrize("free", [(), (0,)])
def test_an_empty_fleet_holds_nothing(free: tuple[int, ...]) -> None:
    zeros = np.zeros(len(free), dtype=np.int32)
    made = Fleet.build(lay_out(zeros, zeros, zeros), np.array(free, dtype=np.int64), 0)
    assert find(made, Gang(1)) == ()
    assert find(made, Gang(1, spread=Level.NODE)) == ()
