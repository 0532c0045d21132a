"""`singularity dashboard`: a link that signs a browser in, with nothing in it that lasts."""

from __future__ import annotations

import webbrowser

import httpx
import pytest
from cli_planet import Planet, problem

MADE = {"code": "sgc_1.x", "expires_at_s": 9.0, "path": "/ui/login#sgc_1.x"}


def test_the_link_holds_a_code_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("nobody wanted that"))
    planet = Planet({"POST /v1/logins": httpx.Response(201, json=MADE)})
    done = planet.run("dashboard")
    assert (done.exit_code, done.stdout) == (0, "http://planet.test:80/ui/login#sgc_1.x\n")


@pytest.mark.parametrize("opens", [True, False])
def test_it_is_opened_if_that_is_wanted(monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) or opens)
    planet = Planet({"POST /v1/logins": httpx.Response(201, json=MADE)})
    done = planet.run("dashboard", "--open")
    assert asked == [done.stdout.strip()] and done.exit_code == 0
    assert ("open the link yourself" in done.stderr) != opens


def test_who_has_no_token_is_told_so() -> None:
    planet = Planet({"POST /v1/logins": problem(401, "unauthenticated", "the token has expired")})
    assert planet.run("dashboard").exit_code == 4
