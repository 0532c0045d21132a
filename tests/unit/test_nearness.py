"""Where a job goes first: to its images, to its data, to what costs less; and what a move costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import Intent, JobId, ShardImage
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.tariffs import Tariff
from singularity.scheduler.nearness import distance
from singularity.scheduler.price import of_leaving, of_moving, transfer_s
from tests.unit.fleets import POLICY, Planet

REGIONS = ("us", "eu", "ap")


def planet(**costs: float) -> Planet:
    """Three regions of one node; costs of a device for an hour."""
    found = Planet(nodes=1, devices=8, regions=REGIONS)
    for region, cost in costs.items():
        found.ledger.set_tariff(Tariff(Scope(ScopeKind.REGION, region), cost))
    return found


def goes_to(planet: Planet, job: JobId) -> str:
    (action,) = (a for a in planet.plan().actions if a.job == job)
    return str(action.placement[0].node).partition("-")[0]


def suspended(planet: Planet, region: str, raw_bytes: int) -> JobId:
    """A job with an image of that size from that region, and free to go anywhere."""
    job = planet.submit("job", 2, regions=(region,))
    planet.run(job)
    planet.ledger.intend(job, Intent.HOLD, planet.now_s)
    planet.tick()
    (shard,) = planet.job(job).placement
    image = ShardImage(shard.node, shard.ranks, "digest", 7, raw_bytes=raw_bytes)
    planet.report(job, "dumped", cut=False, image=image)
    planet.ledger.intend(job, Intent.RUN, planet.now_s)
    planet.change(job, spec=replace(planet.job(job).spec, regions=()), restore_s=None)
    return job


def test_the_cheaper_region_is_filled_first() -> None:
    found = planet(us=2.0, eu=1.5, ap=1.8)
    assert [goes_to(found, found.submit(f"job-{i}", 8)) for i in range(1)] == ["eu"]
    found.run(JobId("job-0"))
    assert goes_to(found, found.submit("next", 8)) == "ap"


def test_a_cluster_has_its_own_price_and_carbon_counts() -> None:
    found = planet(us=1.0, eu=2.0, ap=2.0)
    found.ledger.set_tariff(Tariff(Scope(ScopeKind.CLUSTER, "us-a"), 1.0, carbon_g=9_000.0))
    found.ledger.set_tariff(Tariff(Scope(ScopeKind.CLUSTER, "ap-a"), 1.5))
    assert goes_to(found, found.submit("job", 1)) == "ap", "9 kg are worth 1620 s, 0.5 are 900"


def test_it_goes_where_its_data_lie_unless_that_costs_more() -> None:
    found = planet()
    job = found.submit("job", 1, data=("a*",))
    assert goes_to(found, job) == "ap"
    found.ledger.set_tariff(Tariff(Scope(ScopeKind.REGION, "ap"), 1.0))
    assert goes_to(found, job) != "ap"


@pytest.mark.parametrize(("gigabytes", "where"), [(1, "eu"), (400, "us")])
def test_small_images_follow_the_price_and_large_ones_stay(gigabytes: int, where: str) -> None:
    found = planet(us=2.0, eu=1.0, ap=2.0)
    assert goes_to(found, suspended(found, "us", gigabytes * 10**9)) == where


def test_without_prices_it_goes_on_where_its_images_are() -> None:
    found = planet()
    assert goes_to(found, suspended(found, "ap", 10)) == "ap"


def test_a_move_to_another_region_costs_what_it_takes_to_carry_the_images() -> None:
    found = planet()
    job = replace(found.job(suspended(found, "us", 5 * 10**9)), placement=())
    near, far = (of_moving(job, 0.0, POLICY, far=far) for far in (False, True))
    assert near == of_leaving(job, 0.0, POLICY)
    assert transfer_s(job, POLICY) == pytest.approx(50.0)
    assert "5 GB to another region, 50 s" in far.text
    assert transfer_s(replace(job, restore_s=12.0), POLICY) == 12.0, "as measured"


@pytest.mark.parametrize(
    ("tariff", "said"),
    [
        (Tariff(Scope(ScopeKind.NODE, "n"), 1.0), "not of a node"),
        (Tariff(Scope(ScopeKind.REGION, "us"), -1.0), "cost must be 0 or more"),
        (Tariff(Scope(ScopeKind.REGION, "us"), 1.0, float("nan")), "carbon_g must be 0 or more"),
    ],
)
def test_prices_that_cannot_be_are_refused(tariff: Tariff, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        planet().ledger.set_tariff(tariff)


PRICES = st.dictionaries(st.sampled_from(REGIONS), st.floats(0, 10), max_size=3)


@given(PRICES, st.lists(st.sampled_from(REGIONS), max_size=2), st.floats(0, 5))
def test_the_same_on_top_of_all_prices_changes_nothing(
    costs: dict[str, float], data: list[str], more: float
) -> None:
    known = {region: round(costs.get(region, 0.0), 2) for region in REGIONS}
    ranks: list[Any] = []
    for extra in (0.0, round(more, 2)):
        found = planet(**{region: cost + extra for region, cost in known.items()})
        job = found.job(found.submit("job", 1, data=tuple(data)))
        ranks.append(distance(found.ledger.snapshot(found.now_s), job, POLICY))
    assert (ranks[0] == ranks[1]).all() and ranks[0].min() == 1
