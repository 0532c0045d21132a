"""Shares of devices: compiled or not, by states or node by node, the same spot is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.scheduler.fleet.fragments import (
    NOWHERE,
    Demand,
    Scale,
    States,
    balance,
    fragmentation,
    mix_of,
    rate,
)
from singularity.scheduler.fleet.shares import Host, Shares, Spot, rate_plainly, rater
from singularity.scheduler.fleet.slices import Slices

MILLI = st.sampled_from([0, 50, 190, 300, 470, 810, 1000])


@st.composite
def demands(draw: Any) -> Demand:
    devices = draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
    milli = draw(MILLI) or 1000 if devices == 1 else 1000 * min(devices, 1)
    memory = min(1000, milli + draw(st.sampled_from([0, 100]))) if devices else 0
    host = draw(st.integers(0, 8000)), draw(st.integers(0, 64))
    return Demand(*host, devices, milli, memory, draw(st.integers(1, 3)))


HOSTS = st.builds(
    Host, st.sampled_from([4000, 16000]), st.just(128), st.integers(0, 4), st.integers(0, 1)
)
WORK = st.lists(demands(), min_size=1, max_size=25)


def scale_of(work: list[Demand], ours: bool) -> Scale:
    return balance() if ours else fragmentation(mix_of(work))


@given(st.lists(HOSTS, min_size=1, max_size=8), WORK, st.booleans())
@settings(deadline=None)
def test_what_is_compiled_rates_as_the_reference(
    hosts: list[Host], work: list[Demand], ours: bool
) -> None:
    pytest.importorskip("numba")
    mix, scale, rng = mix_of(work), scale_of(work, ours), np.random.default_rng(len(work))
    width = np.array([h.devices for h in hosts])
    left = rng.choice([0, 190, 530, 810, 1000], (2, len(hosts), 4))
    left *= np.arange(4) < width[:, None]
    states = States(
        np.array([(h.cpu_milli, h.memory_mib) for h in hosts]),
        left[0],
        left[1],
        width,
        np.array([h.kind for h in hosts]),
    )
    rows = np.arange(len(hosts))
    for demand in work[:5]:
        plain = rate_plainly(states, rows, demand, mix, scale)
        fast = rater()(states, rows, demand, mix, scale)
        assert [p.tolist() for p in plain] == [f.tolist() for f in fast]


@given(st.lists(HOSTS, min_size=1, max_size=10), WORK, st.booleans(), st.data())
@settings(deadline=None, max_examples=60)
def test_states_find_what_looking_at_every_node_finds(
    hosts: list[Host], work: list[Demand], ours: bool, data: Any
) -> None:
    mix, scale = mix_of(work), scale_of(work, ours)
    shares = Shares(hosts, mix, scale, rate_plainly)
    held: list[Spot] = []
    for demand in work:
        if held and data.draw(st.booleans()):
            shares.give(held.pop(data.draw(st.integers(0, len(held) - 1))))
        spot = shares.find(demand)
        expected = one_by_one(shares, demand, (mix, scale))
        assert (spot.node if spot else None) == expected
        if spot is None:
            continue
        assert len(set(spot.devices)) == demand.devices
        shares.take(spot)
        held.append(spot)
        assert shares.states <= len(hosts)
    for spot in held:
        shares.give(spot)
    assert shares.states == len(set(hosts))
    assert shares.compute.sum() == 1000 * sum(h.devices for h in hosts)


def one_by_one(shares: Shares, demand: Demand, by: Any) -> int | None:
    """The first node of the highest score, with its devices in order of what is left of them."""
    found = []
    for node in range(len(shares.width)):
        order = np.lexsort((shares.memory[node], shares.compute[node]))
        order = order[np.isin(order, np.arange(shares.width[node]))]
        row = slice(node, node + 1)
        state = States(
            shares.host[row],
            shares.compute[row][:, order],
            shares.memory[row][:, order],
            shares.width[row],
            shares.kind[row],
        )
        score, _ = rate(state, 0, demand, *by)
        if score > NOWHERE:
            found.append((-score, node))
    return min(found)[1] if found else None


@given(st.lists(HOSTS, min_size=1, max_size=6), WORK)
@settings(deadline=None)
def test_slices_fill_what_is_left_and_are_never_in_the_way(
    hosts: list[Host], work: list[Demand]
) -> None:
    mix, scale = mix_of(work), balance()
    alone, shares = (Shares(hosts, mix, scale, rate_plainly) for _ in range(2))
    slices = Slices(shares)
    slices.fill()
    for demand in work:
        spot = shares.find(demand)
        assert spot == alone.find(demand)
        if spot is None:
            continue
        alone.take(spot)
        shares.take(spot)
        slices.settle(spot.node)
        left = [
            min(int(shares.compute[n, d]), int(shares.memory[n, d]))
            for n in range(len(hosts))
            for d in range(hosts[n].devices)
        ]
        assert slices.used() == sum(v for v in left if v >= slices.least)
        assert len(slices) * slices.least <= sum(left)
        begun, evicted, resumed = (
            getattr(slices.count, what) for what in ("begun", "evicted", "resumed")
        )
        assert len(slices) == begun + resumed - evicted
