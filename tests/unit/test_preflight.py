"""A preflight that the job document asks for is a second job, submitted with the first."""

from __future__ import annotations

from typing import Any

import pytest

from singularity.api.intake import Entry, entries
from singularity.api.schemas import read_job
from singularity.primitives.asides import STEPS
from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import Aside, Kind, Tier


def made(key: str | None = None, **changes: Any) -> list[Entry]:
    body = {"name": "a", "run": "x", "devices": "cpu:4", "ranks": 4, "tier": "premium"}
    body |= {"checkpoint": {"preflight": True}, "place": {"regions": ["eu-*"]}, **changes}
    return entries(read_job(body), (), key, body, 100.0)


def test_it_verifies_the_job_on_one_node_at_the_lowest_urgency() -> None:
    (job, _), (shadow, known) = made()
    assert shadow.spec.aside == Aside(job.id, STEPS)
    assert (shadow.spec.kind, shadow.spec.tier) == (Kind.VERIFY, Tier.BASIC)
    assert (shadow.spec.ranks, shadow.spec.same_node, shadow.spec.regions) == (4, True, ("eu-*",))
    assert (shadow.spec.devices_min, shadow.devices, shadow.spec.retry_infra) == (1, 4, 0)
    assert known.key is None
    assert len({job.id, shadow.id}) == 2


def test_a_request_that_is_repeated_asks_for_no_second_one() -> None:
    keys = [known.key for _, known in made("k")]
    assert keys == ["k", "k/preflight"]
    digests = {known.digest for _, known in made("k")}
    assert len(digests) == 1


def test_each_job_of_an_array_has_its_own() -> None:
    found = made("k", kind="batch", array=3)
    assert [known.key for _, known in found[3:]] == [f"k/{i}/preflight" for i in range(3)]
    assert [j.spec.aside.of for j, _ in found[3:] if j.spec.aside] == [j.id for j, _ in found[:3]]


def test_a_verification_is_not_submitted_as_a_job() -> None:
    with pytest.raises(InvalidSpec, match="verifications"):
        read_job({"name": "a", "run": "x", "kind": "verify"})
