"""What is spoilt, by hand; and where a share goes because of it."""

from __future__ import annotations

import numpy as np

from singularity.scheduler.fleet.fragments import Demand, balance, fragmentation, mix_of, spoilt
from singularity.scheduler.fleet.shares import Host, Shares, rate_plainly
from singularity.scheduler.fleet.slices import Slices

HALF = Demand(1000, 0, 1, 500, 500, 1)
WHOLE = Demand(1000, 0, 1, 1000, 1000, 1)
PAIR = Demand(1000, 0, 2, 1000, 1000, 1)


def left(*milli: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.array(milli), np.array(milli)


def test_idle_devices_are_spoilt_for_those_who_cannot_use_them() -> None:
    mix = mix_of([HALF, WHOLE])
    scale = fragmentation(mix)
    assert spoilt((8000, 0), left(500), 0, mix, scale) == 500  # of one in two
    assert spoilt((8000, 0), left(400), 0, mix, scale) == 2 * 400
    assert spoilt((8000, 0), left(1000), 0, mix, scale) == 0
    assert spoilt((500, 0), left(1000), 0, mix, scale) == 2 * 1000  # no core for anybody
    assert spoilt((8000, 0), left(1000), 1, mix, scale) == 2 * 1000  # of another kind


def test_what_the_cores_cannot_feed_is_stranded() -> None:
    mix = mix_of([WHOLE])  # a core a device
    assert spoilt((1000, 0), left(1000, 1000, 1000), 0, mix, balance()) == 2000 + 3000
    assert spoilt((1000, 0), left(1000, 1000, 1000), 0, mix, fragmentation(mix)) == 0


def test_a_device_that_is_begun_is_finished_first() -> None:
    hosts = [Host(8000, 64, 2, 0), Host(8000, 64, 2, 0)]
    shares = Shares(hosts, mix_of([HALF, WHOLE, PAIR]), balance(), rate_plainly)
    spots = []
    for demand in (HALF, HALF, PAIR, WHOLE):
        spot = shares.find(demand)
        assert spot is not None
        shares.take(spot)
        spots.append((spot.node, spot.devices))
    assert spots == [(0, (0,)), (0, (0,)), (1, (0, 1)), (0, (1,))]
    assert shares.find(HALF) is None


def test_memory_and_compute_are_told_apart() -> None:
    shares = Shares([Host(8000, 64, 1, 0)], mix_of([HALF]), balance(), rate_plainly)
    hungry = HALF._replace(compute=100, memory=900)
    spot = shares.find(hungry)
    assert spot is not None
    shares.take(spot)
    assert shares.find(HALF) is None
    assert shares.find(HALF._replace(memory=100)) is not None
    shares.give(spot)
    assert shares.find(HALF) is not None


def test_a_slice_shrinks_then_moves_then_goes() -> None:
    shares = Shares([Host(8000, 64, 2, 0)], mix_of([HALF, WHOLE]), balance(), rate_plainly)
    slices = Slices(shares)
    slices.fill()
    assert (len(slices), slices.used()) == (2, 2000)
    seen = []
    for demand in (HALF, HALF, HALF, HALF):
        spot = shares.find(demand)
        assert spot is not None
        shares.take(spot)
        slices.settle(spot.node)
        count = slices.count
        seen.append((slices.used(), len(slices), count.migrated, count.evicted))
    assert seen == [(1500, 2, 0, 0), (1000, 2, 1, 0), (500, 2, 1, 0), (0, 0, 1, 2)]
    shares.give(spot)
    slices.settle(spot.node)
    assert (slices.used(), slices.count.resumed, slices.count.begun) == (500, 1, 2)
