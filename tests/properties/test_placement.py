"""A gang fits or it does not, and every rank gets its devices exactly once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from fleets import Planet

from singularity.primitives.holdings import divide
from singularity.scheduler.placement import pack

FREE = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(us=FREE, eu=FREE, ranks=st.integers(1, 6), share=st.integers(1, 3), same=st.booleans())
def test_pack_holds_the_gang_in_one_cluster_or_says_no(
    us: list[int], eu: list[int], ranks: int, share: int, same: bool
) -> None:
    planet = Planet(regions=())
    for region, free in (("eu", eu), ("us", us)):
        for i in range(len(free)):
            planet.join(f"{region}-{i}", region)
    devices = ranks * share
    job = planet.job(planet.submit("job", devices, ranks=ranks, same_node=same))
    snapshot = planet.ledger.snapshot(0.0)
    room = np.array([*eu, *us], dtype=np.int64)
    placement = pack(snapshot, room, job, devices)
    units = [sum(n // share for n in free) for free in (us, eu)]
    if same:
        units = [max(n // share for n in free) for free in (us, eu)]
    assert bool(placement) == (max(units) >= ranks)
    if placement:
        taken = {shard.node: shard.devices for shard in placement}
        assert sum(taken.values()) == devices
        assert len({node.split("-")[0] for node in taken}) == 1
        assert all(n <= room[snapshot.row[node]] for node, n in taken.items())
        assert len(placement) == 1 or not same
        ranked = [rank for shard in divide(placement, ranks) for rank in shard.ranks]
        assert ranked == list(range(ranks))


@given(ranks=st.integers(1, 12), cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_fewer_devices_than_ranks_are_shared_evenly(ranks: int, cuts: list[int]) -> None:
    planet = Planet(nodes=len(cuts), regions=("us",))
    devices = sum(cuts)
    if devices > ranks:
        return
    job = planet.job(planet.submit("job", devices, ranks=ranks))
    room = np.array(cuts, dtype=np.int64)
    shards = divide(pack(planet.ledger.snapshot(0.0), room, job, devices), ranks)
    shares = [len(s.ranks) / s.devices for s in shards]
    assert [rank for s in shards for rank in s.ranks] == list(range(ranks))
    assert max(shares) - min(shares) <= 1
