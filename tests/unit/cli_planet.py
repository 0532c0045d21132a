"""A planet as far as the command line can see: canned answers, and what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from click.testing import Result
from typer.testing import CliRunner

from singularity.cli.client import Client
from singularity.cli.main import app
from singularity.cli.session import Session

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]


def job(**changes: Any) -> dict[str, Any]:
    """A job view as the server gives it."""
    return {
        "id": "job-1",
        "name": "digits",
        "project": "default",
        "kind": "train",
        "tier": "standard",
        "state": "running",
        "intent": "run",
        "devices": 4,
        "device": "cpu",
        "ranks": 4,
        "elastic": {"min": 1, "max": 4},
        "placement": [
            {"node": "n0", "cluster": "c", "region": "us-east", "devices": 4, "ranks": [0, 1, 2, 3]}
        ],
        "region": "us-east",
        "incarnation": 2,
        "cut": 1,
        "step": 40,
        "exit_code": None,
        "message": "",
        "submitted_at_s": 0.0,
        "since_s": 0.0,
        "started_at_s": 1.0,
        "infra_failures": 0,
        "checkpoint": None,
        "confine": None,
        "version": 7,
        "spec": {},
        **changes,
    }


def problem(status: int, slug: str, detail: str, **facts: Any) -> httpx.Response:
    body = {"type": f"/problems/{slug}", "title": slug, "status": status, "detail": detail, **facts}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


def items(*found: Any, next: str | None = None) -> httpx.Response:
    return httpx.Response(200, json={"items": list(found), "next": next})


@dataclass
class Planet:
    """Answers by "METHOD /path"; a list of answers is used up one by one."""

    answers: dict[str, Answer | list[Answer]]
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers[f"{request.method} {request.url.raw_path.decode().split('?')[0]}"]
        if isinstance(answer, list):
            answer = answer.pop(0)
        return answer(request) if callable(answer) else answer

    def client(self, url: str = "http://planet.test:80") -> Client:
        session = Session(url=url, token="sg_1.secret")
        return Client(session, httpx.MockTransport(self))

    def body(self, index: int = -1) -> Any:
        """What was sent with a request."""
        return json.loads(self.asked[index].content)

    def run(self, *argv: str, url: str = "http://planet.test:80", stdin: str = "") -> Result:
        client = self.client(url)
        return CliRunner().invoke(app, list(argv), obj=client, input=stdin)
