"""Verification on the command line: asked, waited for, and told by words and exit code."""

from __future__ import annotations

import json

import httpx
import pytest
from cli_planet import Planet, items, job

SAME = {"finding": "identical", "reason": "identical up to mini-batch 12", "step": 8, "steps": 4}
OTHER = {"finding": "differs", "reason": "differs after mini-batch 9", "step": 8, "steps": 4}


def planet(**ended: object) -> Planet:
    shadow = job(id="v1", name="a-verify", state="pending")
    return Planet(
        {
            "POST /v1/jobs/a/verifications": httpx.Response(202, json=shadow),
            "GET /v1/jobs/a/checkpoints": items(
                {"incarnation": 2, "cut": 3, "step": 8, "at_s": 0.0}
            ),
            "GET /v1/jobs/v1": httpx.Response(200, json={**shadow, **ended}),
        }
    )


def test_verify_with_steps_restores_the_newest_checkpoint_aside() -> None:
    asked = planet(state="succeeded", certificate=SAME)
    result = asked.run("ckpt", "verify", "a", "--steps", "4")
    assert result.exit_code == 0
    assert result.stdout == "identical  identical up to mini-batch 12\n"
    assert asked.body(1) == {"checkpoint": "2-3", "steps": 4}


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        ({"state": "succeeded", "certificate": OTHER}, "differs"),
        ({"state": "cancelled", "message": "no devices were idle"}, "incomparable"),
    ],
)
def test_a_preflight_that_does_not_find_it_identical_exits_with_1(
    ended: dict[str, object], word: str
) -> None:
    asked = planet(**ended)
    result = asked.run("ckpt", "preflight", "a")
    assert result.exit_code == 1
    assert result.stdout.startswith(word)
    assert asked.body(0) == {}


def test_run_can_ask_for_a_preflight() -> None:
    asked = Planet({"POST /v1/jobs": httpx.Response(202, json=job())})
    assert asked.run("run", "--every", "5m", "--preflight", "--", "python", "x.py").exit_code == 0
    assert json.loads(asked.asked[0].content)["checkpoint"] == {"every": "5m", "preflight": True}
