"""Following changes equals building anew; what is compiled agrees with what is plain."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.scheduler.fleet import reference
from singularity.scheduler.fleet.gangs import Fleet, Gang
from singularity.scheduler.fleet.index import Engine, Plain, build, compiled
from singularity.scheduler.fleet.layout import Layout, Level, lay_out
from singularity.scheduler.fleet.reference import Want

Draw = Any
MOST = 9


def engines() -> list[Engine]:
    pytest.importorskip("numba")
    found = compiled()
    assert found is not None
    return [Plain(), found]


@st.composite
def layouts(draw: Draw, nodes: int = 150) -> Layout:
    """Up to `nodes` nodes: more than a word of the bitmap, in a few domains each."""
    size = draw(st.integers(1, nodes))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    region = rng.integers(0, 2, size).astype(np.int32)
    cluster = (2 * region + rng.integers(0, 2, size)).astype(np.int32)
    kind, rack = rng.integers(0, 2, (2, size)).astype(np.int32)
    return lay_out(region, cluster, kind, rack)


def frees(size: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, MOST + 1, size)


@given(layouts(), st.integers(0, 1 << 30), st.integers(0, 40))
@settings(deadline=None)
def test_following_changes_equals_building_anew(layout: Layout, seed: int, changes: int) -> None:
    size = len(layout.order)
    rng = np.random.default_rng(seed)
    for by in engines():
        fleet = Fleet.build(layout, frees(size, seed), MOST, by)
        for _ in range(changes):
            rows = rng.choice(size, min(size, 3), replace=False)
            fleet.put(rows, rng.integers(0, MOST + 1, len(rows)))
        anew = build(layout, fleet.free[layout.order], MOST)
        for name, here, there in zip(anew._fields, fleet.index, anew, strict=True):
            assert np.array_equal(here, there), name


@given(layouts(), st.integers(0, 1 << 30), st.integers(1, 60), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=300)
def test_both_engines_find_what_the_reference_finds(
    layout: Layout, seed: int, units: int, unit: int, data: Any
) -> None:
    level = data.draw(st.sampled_from(Level))
    index = build(layout, frees(len(layout.order), seed), MOST)
    low, high = layout.domains(level)
    allowed = np.random.default_rng(seed).integers(0, 3, len(layout.start)).astype(np.uint8)
    want = Want(units, unit, level is Level.NODE, low, high)
    expected = reference.find(index.free, index.start, index.end, allowed, want)
    for by in engines():
        found = by.find(index, allowed, want)
        assert [a.tolist() for a in found] == [a.tolist() for a in expected]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=7), st.integers(1, 20), st.integers(1, 3))
def test_a_gang_takes_the_fewest_nodes_that_hold_it(free: list[int], units: int, unit: int) -> None:
    (chosen, devices), waste = reference.fit(np.array(free), Want(units, unit, False, 0, 0))
    rooms = [f // unit for f in free]
    enough = [
        size
        for size in range(1, len(free) + 1)
        if any(
            sum(rooms[i] for i in some) >= units for some in combinations(range(len(free)), size)
        )
    ]
    assert len(chosen) == (enough[0] if enough else 0)
    if enough:
        assert devices.sum() == units * unit
        assert all(d % unit == 0 and 0 < d <= free[i] for i, d in zip(chosen, devices, strict=True))
        left = [free[i] - d for i, d in zip(chosen, devices, strict=True)]
        assert waste in (0, *left)


@given(layouts(), st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([0, 1]))
@settings(deadline=None)
def test_a_spread_gang_holds_no_more_on_one_block_than_it_must(
    layout: Layout, seed: int, units: int, over: int
) -> None:
    size = len(layout.order)
    fleet = Fleet.build(layout, frees(size, seed), MOST)
    level = Level.NODE if over == 0 else Level.RACK
    allowed = np.ones(len(layout.start), dtype=np.uint8)
    found = fleet.find(Gang(units, spread=level), allowed)
    plain = fleet.find(Gang(units), allowed)
    assert bool(found) == bool(plain)
    if not found:
        return
    assert sum(d for _, d in found) == units
    assert all(0 < d <= fleet.free[row] for row, d in found)
    positions = [int(layout.position[row]) for row, _ in found]
    assert len({int(layout.of[Level.CLUSTER, p]) for p in positions}) == 1
    blocks = [p if over == 0 else int(layout.of[Level.RACK, p]) for p in positions]
    held = {b: sum(d for q, (_, d) in zip(blocks, found, strict=True) if q == b) for b in blocks}
    domain = int(layout.of[Level.CLUSTER, positions[0]])
    inside = range(int(layout.start[domain]), int(layout.end[domain]))
    room: dict[int, int] = {}
    for p in inside:
        block = p if over == 0 else int(layout.of[Level.RACK, p])
        room[block] = room.get(block, 0) + int(fleet.index.free[p])
    most = max(held.values())
    assert sum(min(r, most - 1) for r in room.values()) < units, "a smaller share would do"


@given(layouts(40), st.integers(0, 1 << 30), st.integers(1, 30), st.integers(0, 1 << 30))
@settings(deadline=None)
def test_who_asks_sees_its_own_and_not_others_and_changes_nothing(
    layout: Layout, seed: int, units: int, other: int
) -> None:
    size = len(layout.order)
    free = frees(size, seed)
    rng = np.random.default_rng(other)
    own = {int(r): int(MOST - free[r]) for r in rng.choice(size, min(size, 2), replace=False)}
    apart = tuple(int(r) for r in rng.choice(size, min(size, 3), replace=False))
    fleet = Fleet.build(layout, free, MOST)
    allowed = np.ones(len(layout.start), dtype=np.uint8)
    seen = free.copy()
    for row, held in own.items():
        seen[row] += held
    seen[list(apart)] = 0
    expected = Fleet.build(layout, seen, MOST).find(Gang(units), allowed)
    assert fleet.find(Gang(units, own=own, apart=apart), allowed) == expected
    assert np.array_equal(fleet.free, free)


@given(layouts(40), st.integers(0, 1 << 30), st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None, max_examples=300)
def test_one_like_the_last_goes_where_it_would_if_it_were_looked_for(
    layout: Layout, seed: int, turns: list[int]
) -> None:
    """Few kinds of gangs, in any order; now and then somebody gives devices back."""
    rng = np.random.default_rng(seed)
    size, gangs = len(layout.order), [Gang(1), Gang(2), Gang(4, 2), Gang(3, within=Level.NODE)]
    fleet = Fleet.build(layout, frees(size, seed), MOST)
    places = [rng.integers(0, 3, len(layout.start)).astype(np.uint8) for _ in range(2)]
    for turn in turns:
        if turn == 9:
            row = int(rng.integers(size))
            fleet.take([(row, fleet.room(row) - MOST)])
            continue
        gang, allowed = gangs[turn % 4], places[turn % 2]
        found = fleet.find(gang, allowed)
        assert found == Fleet.build(layout, fleet.free, MOST).find(gang, allowed)
        fleet.take(found)


@given(st.integers(1, 60), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_shares_add_up(units: int, room: list[int]) -> None:
    rooms = np.array(room)
    most = Fleet.share_most(rooms, units)
    assert bool(most) == (sum(room) >= units)
    if most:
        shares = Fleet.shares(rooms, units, most)
        assert shares.sum() == units and (shares <= rooms).all() and shares.max() == most


@given(layouts(), st.integers(0, 1 << 30), st.lists(st.integers(1, 20), max_size=40))
@settings(deadline=None)
def test_a_round_places_what_gangs_one_by_one_would(
    layout: Layout, seed: int, sizes: list[int]
) -> None:
    low, high = layout.domains(Level.CLUSTER)
    allowed = np.random.default_rng(seed).integers(0, 3, len(layout.start)).astype(np.uint8)
    want, units = Want(0, 1, False, low, high), np.array(sizes, dtype=np.int64)
    told = []
    for by in engines():
        index = build(layout, frees(len(layout.order), seed), MOST)
        ends, (positions, devices) = by.place_all(index, allowed, units, want)
        rounds = [
            sorted(zip(positions[a:b].tolist(), devices[a:b].tolist(), strict=True))
            for a, b in pairwise(ends)
        ]
        told.append((rounds, index.free.tolist()))
    assert told[0] == told[1]
