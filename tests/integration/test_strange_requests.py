"""What no schema describes: bytes that are no text, numbers that are none, bodies without end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import httpx
import pytest

from singularity.api.app import BODY_MOST_BYTES
from tests.integration.api_client import ADMIN, bearer, open_api
from tests.integration.asking import EXAMPLES, GOOD, LABELS, World, described, is_problem

_WRITES: Final = [label for label in LABELS if label.split()[0] in ("POST", "PUT", "PATCH")]
_TAKING: Final = [
    label for label in _WRITES
    if "requestBody" in described()["paths"][label.split()[1]][label.split()[0].lower()]
]  # fmt: skip
_DEEP: Final = 100_000
BYTES: Final = {
    "nothing": b"",
    "half": b'{"name": ',
    "two": b"{}{}",
    "no-text": b'{"name": "\xff\xfe"}',
    "nul": b"\0",
    "a-number": b"1",
    "null": b"null",
    "nan": b"NaN",
    "a-list": b"[]",
    "deep-lists": b"[" * _DEEP + b"]" * _DEEP,
    "deep-objects": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    "deep-inside": b'{"name":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "long-number": b'{"devices": ' + b"9" * 100_000 + b"}",
    "same-key-twice": b'{"name": "a", "name": "b"}',
    "byte-order-mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"name": "a"}'.encode("utf-16"),
}
KINDS: Final = (
    "text/plain",
    "application/xml",
    "multipart/form-data",
    "application/json;charset=x",
    "",
)
VALUES: Final = (
    '"\\ud800"', '"a\\u0000b"', "NaN", "Infinity", "-Infinity", "1e999", "9" * 400, str(2**63),
    "-1", "0.5", "null", "true", "[]", "{}", '""', '"' + "x" * 70_000 + '"',
    '{"a": {"\\udfff": 1}}', '["\\u0000"]',
)  # fmt: skip
PATHS: Final = (
    "%00", "%ed%a0%80", "%ff", "%2e%2e%2f%2e%2e%2fetc", "..%5c", "%0d%0aX-Evil:%201", "a%2fb", "%",
    "%u0000", "'%20OR%201=1--", "9" * 4000, "%e2%80%ae", "%F0%9F%99%82", "-0", "1e5", "%20", "NaN",
    "%d9%a3",
)  # fmt: skip


def some(values: Sequence[str], start: int) -> Sequence[str]:
    """A few of them, others for each place; all where much time is given (`make fuzz`)."""
    return values if EXAMPLES else [values[(start * 5 + i) % len(values)] for i in range(5)]


@pytest.fixture(scope="module")
def world(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with open_api(new_database(), tmp_path_factory.mktemp("strange")) as api:
        yield World(api)


def paths(world: World, label: str) -> str:
    """Of something that is there, where the operation names anything."""
    path = label.split()[1]
    for name, found in world.known.items():
        path = path.replace("{" + name + "}", str(found[0]))
    return path


def refused(answer: httpx.Response, told: object) -> None:
    assert answer.status_code < 500, (told, answer.status_code, answer.text)
    if answer.status_code >= 400:
        is_problem(answer.status_code, answer.headers["content-type"], answer.content, str(told))


@pytest.mark.parametrize("label", _TAKING)
def test_bodies_that_are_no_documents_are_refused(world: World, label: str) -> None:
    method, path, http = label.split()[0], paths(world, label), world.api.http
    for what, body in BYTES.items():
        for token in (ADMIN, None):
            headers = {"Content-Type": "application/json", **(bearer(token) if token else {})}
            answer = http.request(method, path, content=body, headers=headers)
            refused(answer, (label, what))
            assert (answer.status_code == 401) == (token is None), (label, what)
    for kind in KINDS:
        answer = http.request(
            method, path, content=b'{"x": 1}', headers={**bearer(ADMIN), "Content-Type": kind}
        )
        refused(answer, (label, kind))
        assert answer.status_code >= 400, (label, kind)


@pytest.mark.parametrize("label", _TAKING)
def test_bodies_without_end_are_refused(world: World, label: str) -> None:
    method, path, http = label.split()[0], paths(world, label), world.api.http
    large = b'{"name": "' + b"x" * (BODY_MOST_BYTES + 1) + b'"}'
    headers = {"Content-Type": "application/json", **bearer(ADMIN)}

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(large), 65536):
            yield large[at : at + 65536]

    for content in (large, pieces()):
        answer = http.request(method, path, content=content, headers=headers)
        refused(answer, label)
        assert answer.status_code == 413, (label, answer.text)


def changed(body: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in `body`, as (what holds it, its key); of a copy that may be written to."""
    if isinstance(body, dict):
        places: list[Any] = list(body)
    elif isinstance(body, list):
        places = list(range(len(body)))
    else:
        return
    for key in places:
        yield body, key
        yield from changed(body[key])


@pytest.mark.parametrize("label", [label for label in GOOD if label in _TAKING])
def test_values_that_are_none_are_refused_or_kept(world: World, label: str) -> None:
    """Text that is no text, numbers that are too large: each in every place of a good body."""
    world.restore()
    method, path, http = label.split()[0], paths(world, label), world.api.http
    token = world.tokens["node"] if "/agent/" in path else ADMIN
    headers = {"Content-Type": "application/json", **bearer(token)}
    for good in GOOD[label]:
        for number in range(len(list(changed(good)))):
            for value in some(VALUES, number):
                body = copy.deepcopy(good)
                held, key = list(changed(body))[number]
                held[key] = "HERE"
                text = json.dumps(body).replace('"HERE"', value)
                refused(http.request(method, path, content=text.encode(), headers=headers), text)


@pytest.mark.parametrize("label", [label for label in LABELS if "{" in label])
def test_names_that_are_none_name_nothing(world: World, label: str) -> None:
    world.restore()
    method, _, path = label.partition(" ")
    body = (GOOD.get(label) or [{}])[0] if label in _TAKING else None
    before, _, rest = path.partition("{")
    for name in some(PATHS, len(label)):
        url = before + name + rest.partition("}")[2].replace("{", "").replace("}", "")
        target = httpx.URL(world.url).copy_with(raw_path=url.encode())
        refused(world.api.http.request(method, target, json=body, headers=bearer(ADMIN)), url)


@pytest.mark.parametrize("label", [label for label in LABELS if label.startswith("GET")])
def test_parameters_that_are_none_are_refused(world: World, label: str) -> None:
    taken = described()["paths"][label.split()[1]]["get"].get("parameters", ())
    for number, name in enumerate(p["name"] for p in taken if p["in"] == "query"):
        for value in some(PATHS, number):
            url = f"{paths(world, label)}?{name}={value}"
            target = httpx.URL(world.url).copy_with(raw_path=url.encode())
            refused(world.api.http.get(target, headers=bearer(ADMIN)), url)


def test_a_strange_key_is_answered_with_the_nearest(world: World) -> None:
    schemas = described()["components"]["schemas"]
    for label in _TAKING:
        method, path = label.split()
        operation = described()["paths"][path][method.lower()]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        model = schema.get("$ref", schema.get("anyOf", [{}])[0].get("$ref", "")).rpartition("/")[2]
        if "/agent/" in path or "/routers/" in path:
            continue  # what programs say to each other
        key = next(iter(schemas[model]["properties"]))
        body = {**(GOOD.get(label) or [{}])[0], f"{key}x": 1}
        status, found = world.api.call(method, paths(world, label), body)
        assert (status, found["type"]) == (422, "/problems/invalid-spec"), (label, found)
        assert f"did you mean {key!r}" in found["detail"], (label, found)


@pytest.mark.parametrize("label", LABELS)
def test_nobody_comes_in_without_a_token(world: World, label: str) -> None:
    method = label.split()[0]
    for headers in ({}, {"Authorization": "Basic YTpi"}, bearer("sgl_first.wrong"), bearer("\xff")):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = world.api.http.request(method, paths(world, label), headers=raw)
        told = is_problem(answer.status_code, answer.headers["content-type"], answer.content)
        assert told["type"] == "/problems/unauthenticated", label
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_document_that_is_served_is_the_one_that_is_tested(world: World) -> None:
    assert world.api.ok("GET", "/v1/openapi.json") == described()
    for path in ("/v1/openapi.json", "/metrics", "/v1/nothing", "/uix"):
        assert world.api.http.get(path).status_code == 401, path
    assert world.api.http.get("/").headers["location"] == "/ui/"
    assert world.api.http.get("/healthz").status_code == 200
