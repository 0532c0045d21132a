"""At the real server's door: what devices cost where, and that jobs go where it is less."""

from __future__ import annotations

from tests.integration.api_client import Agent, Api, run


def test_prices_are_set_told_and_followed(api: Api, fleet: list[Agent]) -> None:
    regions = [r["id"] for r in api.ok("GET", "/v1/regions")["items"]]
    cheap = regions[-1]
    for region in regions:
        cost = 1.0 if region == cheap else 3.0
        told = api.ok("PUT", f"/v1/regions/{region}/price", {"cost": cost, "carbon_g": 90.0})
        assert (told["id"], told["cost"], told["carbon_g"]) == (region, cost, 90.0)
    assert {r["cost"] for r in api.ok("GET", "/v1/regions")["items"]} == {1.0, 3.0}
    assert run(api, fleet)["region"] == cheap
    cluster = api.ok("GET", "/v1/clusters")["items"][0]["id"]
    assert api.ok("PUT", f"/v1/clusters/{cluster}/price", {"cost": 0.5})["cost"] == 0.5


def test_what_is_no_price_or_no_place_is_refused(api: Api, fleet: list[Agent]) -> None:
    region = api.ok("GET", "/v1/regions")["items"][0]["id"]
    status, told = api.call("PUT", f"/v1/regions/{region}/price", {"cost": -1})
    assert status == 422 and "cost must be 0 or more" in told["detail"]
    assert api.call("PUT", "/v1/regions/mars/price", {"cost": 1})[0] == 404
    token = api.token("submitter", "mine")
    assert api.call("PUT", f"/v1/regions/{region}/price", {"cost": 1}, token=token)[0] == 403
