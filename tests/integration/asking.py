"""Requests made from the schema that the API publishes, and what must hold of every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
from tests.integration.api_client import ADMIN, Agent, Api, Json, bearer, run, turn

TYPES: Final = {f"/problems/{kind.slug}" for kind in kinds()}
PROBLEM: Final = "application/problem+json"
ROLES: Final = ("admin", "admin", "admin", "viewer", "submitter", "node", "router", "none")
YES: Final = ("1", "true", "t", "on", "yes", "y")
ODD: Final = (
    "a\0b", "../..", "%2e%2e", "é\u202e\U0001f642", "'; DROP TABLE job; --", "9" * 400, "-1",
    str(2**63), "NaN", "1e999", " ", "a/b", "{}", "x" * 3000, "\n", "%", "null", "00",
)  # fmt: skip
_ARRAY_MOST: Final = 4  # an array of thousands is as lawful, and takes a second
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
load_all_checks()


def described() -> Json:
    """The document, without a server."""
    bare = FastAPI()
    for door in DOORS:
        bare.include_router(door.router)
    return contract("Singularity", "1", bare.routes)


SCHEMA: Final = schemathesis.openapi.from_dict(described())
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
        case.path_parameters[name] = draw(st.one_of(there, there, st.sampled_from(ODD), kept))
    for name in ("job", "service", "target", "project"):
        if isinstance(case.query, dict) and name in case.query and draw(st.booleans()):
            case.query[name] = draw(st.sampled_from(known.get(name, ["x"])))
    if isinstance(case.body, dict):
        _sober(draw, case.body, known)
    if isinstance(case.query, dict):
        case.query.pop("after" if "/routers/" in label else "", None)  # to wait is lawful
        if str(case.query.get("follow", "")).lower() in YES:
            del case.query["follow"]  # would be told for ever; streams have a test of their own
    return Asked(case, draw(st.sampled_from(ROLES)))


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
        self.api, self.http = api, requests.Session()
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
            "router": api.token("router"),
        }
        spare = api.ok("POST", "/v1/tokens", {"role": "viewer", "name": "spare"})
        self.known = {
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

    def holds(self, asked: Asked) -> None:
        """Ask, and check the answer against the contract."""
        token = self.tokens.get(asked.role)
        headers = {} if token is None else bearer(token)
        case = asked.case
        answer = case.call(base_url=self.url, session=self.http, headers=headers, timeout=60)
        case.validate_response(answer, checks=CHECKS)
        told = f"{asked.role}: {case.as_curl_command()} -> {answer.status_code} {answer.text[:500]}"
        if token is None and answer.status_code not in (404, 405):  # no such path is no secret
            assert answer.status_code == 401, told
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
