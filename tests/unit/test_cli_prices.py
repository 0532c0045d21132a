"""`singularity regions` lists, and `regions price` says what devices cost there."""

from __future__ import annotations

import httpx

from tests.unit.cli_planet import Planet, items

US = {"id": "us", "devices": 8, "used": 2, "nodes": 1, "ready": 1}


def test_regions_are_listed_with_their_prices() -> None:
    planet = Planet({"GET /v1/regions": items({**US, "cost": 2.5}, {**US, "id": "eu"})})
    lines = planet.run("regions").stdout.splitlines()
    assert lines[1].split()[-2:] == ["2.5", "-"] and lines[2].split()[-2:] == ["-", "-"]
    planet = Planet({"GET /v1/regions": items(US)})
    assert planet.run("regions", "-o", "name").stdout == "us\n"


def test_a_price_is_of_a_region_or_of_a_cluster() -> None:
    priced = httpx.Response(200, json={**US, "cost": 2.5, "carbon_g": 400.0})
    planet = Planet({"PUT /v1/regions/us/price": priced, "PUT /v1/clusters/us-1/price": priced})
    assert planet.run("regions", "price", "us", "--cost", "2.5", "--carbon", "400").exit_code == 0
    assert planet.body() == {"cost": 2.5, "carbon_g": 400.0}
    assert planet.run("regions", "price", "--cluster", "us-1", "--cost", "1").exit_code == 0
    assert planet.run("regions", "price", "--cost", "1").exit_code == 2
    assert planet.run("regions", "price", "us", "--cluster", "us-1").exit_code == 2
