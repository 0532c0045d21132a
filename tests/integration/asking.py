"""Requests made from the schema that the API publishes, and what must hold of every answer."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from singularity.api.app import DOORS
from singularity.api.contract import contract, kinds
from tests.integration.api_client import ADMIN, JOIN, Agent, Api, Json, bearer, run, turn

EXAMPLES: Final = int(os.environ.get("SINGULARITY_FUZZ", "0"))  # 0: few, the same every time
TYPES: Final = {f"/problems/{kind.slug}" for kind in kinds()}
PROBLEM: Final = "application/problem+json"
ROLES: Final = ("admin", "admin", "admin", "admin", "viewer", "submitter", "node", "router", "none")
YES: Final = ("1", "true", "t", "on", "yes", "y")
ODD: Final = (
    "a\0b", "../..", "%2e%2e", "é\u202e\U0001f642", "'; DROP TABLE job; --", "9" * 400, "-1",
    str(2**63), "NaN", "1e999", " ", "a/b", "{}", "x" * 3000, "\n", "%", "null", "00",
)  # fmt: skip
_WEB: Final = {"name": "web", "kind": "serve", "run": "serve", "target": {"rps": 9}}
_NEW: Final = {"name": "new", "run": ["python", "train.py"], "devices": "cpu:2", "env": {"A": "1"}}
_FULL: Final = {
    **{**_NEW, "project": "vision", "tier": "basic", "workdir": "/tmp", "ranks": 2},
    "elastic": {"min": 1, "max": 2},
    "place": {
        "regions": "us-*",
        "not": ["eu-*"],
        "data": "us-east",
        "prefer": "rack",
        "apart": "a",
    },
    "checkpoint": {"every": "5m", "keep": 2},
    "retry": {"infra": 3, "user": 1, "on_exit_codes": [3]},
    "limits": {"max_duration": "1h", "hang_after": 600, "memory": "1GiB"},
}
_SHARES: Final = {"name": "part", "run": "x", "share": {"memory": "1GiB", "compute": "50%"}}
# By operation, bodies that chance does not find.
GOOD: Final[dict[str, list[Json]]] = {
    "POST /v1/jobs": [
        _FULL,
        _SHARES,
        _NEW,
        {**_NEW, "kind": "batch", "array": 2},
        {**_NEW, "after": "digits"},
    ],
    "POST /v1/jobs:batch": [{"items": [{"job": _NEW, "key": "k"}, {"job": {}}]}],
    "POST /v1/jobs/{job}/move": [{"to": "eu-north"}, {"to": None}],
    "POST /v1/jobs/{job}/resize": [{"devices": 1}],
    "POST /v1/services": [
        {**_WEB, "name": "other", "replicas": {"min": 1, "max": 2}, "scale_to_zero": "10m"}
        | {"slo": {"wait_p99": "500ms", "attainment": 0.99}, "queue": {"most": 9, "timeout": "9s"}},
        _WEB,
    ],
    "POST /v1/services/{service}/updates": [{"service": {**_WEB, "run": "serve --more"}}],
    "PATCH /v1/services/{service}": [{"replicas": {"min": 1, "max": 2}}],
    "POST /v1/plans": [{"jobs": [_NEW]}, {"without": ["us-east"]}, {"devices": ["+8:cpu@us-1"]}],
    "POST /v1/maintenance": [
        {"name": "nightly", "target": "east-1", "every": "daily 05:00", "for": "30m"}
        | {"policy": "migrate", "moves": 2, "bandwidth": "200MB/s", "reason": "why"}
    ],
    "PUT /v1/projects/{project}": [
        {"weight": 2.0, "devices": {"cpu": {"guaranteed": 4, "borrow": 2, "lend": 1}}}
    ],
    "PUT /v1/regions/{region}/price": [{"cost": 1.5, "carbon_g": 20}],
    "POST /v1/nodes/{node}/quarantine": [{"within": "1s", "reason": "why", "drain": True}],
    "POST /v1/join-tokens": [{"node": "new-2", "within": "1h"}],
    "POST /v1/jobs/{job}/verifications": [{"checkpoint": "1-1", "steps": 3}],
    "POST /v1/drains": [
        {"target": "east-2", "within": "2h", "moves": 3, "bandwidth": "1MB/s", "reason": "x"},
        {"target": "east-2", "deadline_s": 1e10, "policy": "migrate"},
        {"target": "east-1", "plan": True},
    ],
    "POST /v1/rebalance": [{}, {"plan": True}],
    "POST /v1/tokens": [{"role": "viewer", "name": "ci", "project": "p", "expires_s": 60}],
    "POST /v1/agent/register": [
        {"node": "new-1", "region": "mars", "cluster": "m", "device": "cpu", "devices": 2}
        | {"address": "new-1:7000"}
    ],
    "POST /v1/agent/heartbeat": [
        {"node": "east-1", "epoch": 1, "acknowledged": 0, "reports": []},
    ],
    "POST /v1/agent/report": [
        {
            "reports": [
                {"job": "x", "node": "east-1", "incarnation": 1, "phase": "lost", "reason": ""}
            ]
        }
    ],
    "POST /v1/routers/{region}/loads": [{"router": "r"}],
}
_ARRAY_MOST: Final = 4  # an array of thousands is as lawful, and takes a second
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
# It does not read tuples in answers (prefixItems); pydantic reads this one in every agent.
_EXCEPT: Final = {"POST /v1/agent/heartbeat": (response_schema_conformance,)}
load_all_checks()


@cache
def described() -> Json:
    """The document, without a server."""
    bare = FastAPI()
    for door in DOORS:
        bare.include_router(door.router)
    return contract("Singularity", "1", bare.routes)


# Who asks is chosen here; of schemes that it knows it would leave tokens out, and make some up.
SCHEMA: Final = schemathesis.openapi.from_dict(
    {name: part for name, part in described().items() if name != "security"}
)
LABELS: Final = [found.ok().label for found in SCHEMA.get_all_operations()]


@dataclass(frozen=True)
class Asked:
    """One request: of whom, and what."""

    case: schemathesis.Case
    role: str


@st.composite
def requests_to(draw: st.DrawFn, label: str, known: Mapping[str, list[str]]) -> Asked:
    """Valid ones and others; what is named in the path is often there."""
    operation = SCHEMA.find_operation_by_label(label)
    mode = draw(st.sampled_from(list(schemathesis.GenerationMode)))
    case = draw(operation.as_strategy(generation_mode=mode))
    for name in list(case.path_parameters or {}):
        there = st.sampled_from(known.get(name, ["x"]))
        kept = st.just(case.path_parameters[name])
        value = draw(st.one_of(there, there, st.sampled_from(ODD), kept))
        if {".", ".."} & set(str(value).split("/")):
            value = "x"  # clients go up at once, and ask for something else
        case.path_parameters[name] = value
    if (good := known.get(label)) and draw(st.booleans()):
        case.body = copy.deepcopy(draw(st.sampled_from(good)))
        case.media_type = "application/json"
    for name in ("job", "service", "target", "project"):
        if isinstance(case.query, dict) and name in case.query and draw(st.booleans()):
            case.query[name] = draw(st.sampled_from(known.get(name, ["x"])))
    if isinstance(case.body, dict):
        _sober(draw, case.body, known)
    if isinstance(case.query, dict):
        case.query.pop("after" if "/routers/" in label else "", None)  # to wait is lawful
        if str(case.query.get("follow", "")).lower() in YES:
            del case.query["follow"]  # would be told for ever; streams have a test of their own
    return Asked(case, draw(st.sampled_from(("join", *ROLES) if "register" in label else ROLES)))


def _sober(draw: st.DrawFn, body: Json, known: Mapping[str, list[str]]) -> None:
    """Names of what there is, in place of chance's; and nothing that would only be slow."""
    for name in ("node", "target", "to", "region", "cluster"):
        if isinstance(body.get(name), str) and draw(st.booleans()):
            body[name] = draw(st.sampled_from(known["node" if name == "target" else name]))
    for held in (body, *_parts(body)):
        if isinstance(held.get("array"), int):
            held["array"] = min(held["array"], _ARRAY_MOST)


def _parts(body: Json) -> list[Json]:
    """Job documents in it."""
    items = [item.get("job") for item in _dicts(body.get("items"))]
    return [part for part in (*items, *_dicts(body.get("jobs"))) if isinstance(part, dict)]


def _dicts(value: object) -> list[Json]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


class World:
    """A server with something of everything, and who may ask there."""

    def __init__(self, api: Api) -> None:
        self._number = 0
        self.api, self.http = api, requests.Session()
        self.told: Counter[tuple[str, int]] = Counter()
        self.url = str(api.http.base_url)
        fleet = [Agent(api, "east-1"), Agent(api, "east-2"), Agent(api, "north-1", "eu-north")]
        job = run(api, fleet)
        api.ok("POST", f"/v1/jobs/{job['id']}/checkpoints")
        turn(api, fleet)
        ended = api.ok("POST", "/v1/jobs", {"name": "ended", "run": "true"})
        api.ok("POST", f"/v1/jobs/{ended['id']}/cancel")
        web = {"name": "web", "kind": "serve", "run": "serve", "target": {"rps": 9}}
        service = api.ok("POST", "/v1/services", web)
        turn(api, fleet)
        drain = api.ok("POST", "/v1/drains", {"target": "north-1"})
        window = {"name": "weekly", "target": "east-2", "every": "daily 03:00", "for": "1h"}
        api.ok("POST", "/v1/maintenance", window)
        issued = api.ok("POST", "/v1/join-tokens", {})
        self.tokens = {
            "admin": ADMIN,
            "viewer": api.token("viewer"),
            "submitter": api.token("submitter", "default"),
            "node": fleet[0].token,
            "join": JOIN,
            "router": api.token("router"),
        }
        spare = api.ok("POST", "/v1/tokens", {"role": "viewer", "name": "spare"})
        self.known: dict[str, list[Any]] = {
            **GOOD,
            "job": [job["id"], "digits", ended["id"], "ended"],
            "node": ["east-1", "east-2", "north-1"],
            "to": ["region/eu-north", "east-2"],
            "target": ["node/east-1", "region/us-east"],
            "region": ["us-east", "eu-north"],
            "cluster": ["us-east-a"],
            "service": [service["id"], "web"],
            "drain_id": [drain["id"]],
            "name": ["weekly"],
            "number": ["1", "2"],
            "project": ["default", "vision"],
            "token_id": [spare["id"], issued["id"]],
            "checkpoint": ["1-1"],
        }

    def restore(self) -> None:
        """Some of what there was, for the next operation: an earlier one may have ended it."""
        self._number += 1
        name = f"job-{self._number}"
        self.known["job"][:2] = [
            self.api.ok("POST", "/v1/jobs", {**_NEW, "name": name})["id"],
            name,
        ]
        self.api.call("POST", "/v1/services", _WEB)
        if not self.api.ok("GET", "/v1/drains")["items"]:
            drain = self.api.ok("POST", "/v1/drains", {"target": "north-1"})
            self.known["drain_id"] = [drain["id"]]
        window = {"name": f"weekly-{self._number}", "target": "east-2", "every": "daily 03:00"}
        self.api.ok("POST", "/v1/maintenance", {**window, "for": "1h"})
        self.known["name"] = [window["name"]]
        self.known["token_id"] = [self.api.ok("POST", "/v1/join-tokens", {})["id"]]
        self.known["number"] = [str(n["id"]) for n in self.api.ok("GET", "/v1/operations")["items"]]
        for node in ("east-1", "east-2"):
            self.api.call("POST", f"/v1/nodes/{node}/release")
            self.api.call("POST", f"/v1/nodes/{node}/uncordon")

    def holds(self, asked: Asked) -> None:
        """Ask, and check the answer against the contract."""
        token = self.tokens.get(asked.role)
        headers = {} if token is None else bearer(token)
        case = asked.case
        answer = case.call(base_url=self.url, session=self.http, headers=headers, timeout=60)
        checks = [c for c in CHECKS if c not in _EXCEPT.get(case.operation.label, ())]
        case.validate_response(answer, checks=checks)
        told = f"{asked.role}: {case.as_curl_command()} -> {answer.status_code} {answer.text[:500]}"
        assert token is not None or answer.status_code == 401, told
        self.told[case.operation.label, answer.status_code] += 1
        if answer.status_code >= 400:
            is_problem(answer.status_code, _type(answer.headers), answer.content, told)


def _type(headers: Mapping[str, Any]) -> str:
    found = headers.get("content-type", "")
    return str(found[0] if isinstance(found, list) else found)


def is_problem(status: int, content_type: str, content: bytes, told: str = "") -> Json:
    """A document of RFC 9457 with a type that we have."""
    assert content_type.partition(";")[0] == PROBLEM, (content_type, told)
    found: Json = json.loads(content)
    assert found["type"] in TYPES, told
    assert found["status"] == status and found["title"] and found["detail"], told
    return found
