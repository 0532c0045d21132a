"""What one request may ask for: others, and the agents above all, are to be served as well."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, event, text

from singularity.api.applier import SqlLedger
from singularity.api.service_store import ServiceStore
from singularity.api.services import HEAVY_MOST
from tests.integration.api_client import Agent, Api, Json

_SPEC = {"name": "many", "run": "python train.py", "kind": "batch", "devices": "cpu:1"}
_LARGE = {f"V{n}": "x" * 60_000 for n in range(10)}


def kinds(batch: list[Json]) -> list[str]:
    return [str(each["error"]["type"]) if "error" in each else "jobs" for each in batch]


def test_an_array_is_not_so_large_that_nobody_could_write_it(api: Api, fleet: list[Agent]) -> None:
    status, told = api.call("POST", "/v1/jobs", {**_SPEC, "env": _LARGE, "array": 10_000})
    assert (status, told["type"]) == (413, "/problems/body-too-large")
    assert "into a file" in told["detail"]
    assert api.call("POST", "/v1/jobs", {**_SPEC, "env": _LARGE, "array": 2})[0] == 202


def test_a_batch_may_not_ask_for_more_by_way_of_arrays(api: Api, fleet: list[Agent]) -> None:
    """What is too much harms nothing that comes beside it."""
    items = [{"job": {**_SPEC, "array": n}} for n in (3, 9_999, 2, 9_996)]
    assert kinds(api.ok("POST", "/v1/jobs:batch", {"items": items})["items"]) == [
        "jobs",
        "/problems/body-too-large",
        "jobs",
        "/problems/body-too-large",
    ]
    assert len(api.ok("GET", "/v1/jobs?limit=10")["items"]) == 5


def test_a_plan_may_not_ask_for_more_either(api: Api, fleet: list[Agent]) -> None:
    documents = [{**_SPEC, "array": 10_000}] * 2
    status, told = api.call("POST", "/v1/plans", {"jobs": documents})
    assert (status, told["type"]) == (413, "/problems/body-too-large")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/jobs/many/why", None),
        ("POST", "/v1/plans", {"jobs": [_SPEC]}),
        ("GET", "/v1/jobs/many/checkpoints/1-1/verify", None),
    ],
)
def test_heavy_requests_leave_threads_for_the_others(
    api: Api, fleet: list[Agent], method: str, path: str, body: Json | None
) -> None:
    api.ok("POST", "/v1/jobs", _SPEC)
    with ExitStack() as held:
        for _ in range(HEAVY_MOST):
            held.enter_context(api.serving.heavy)
        status, told = api.call(method, path, body)
        assert (status, told["type"]) == (503, "/problems/overloaded")
        assert api.call("GET", "/v1/jobs/many")[0] == 200
    for _ in range(HEAVY_MOST + 1):  # whatever became of it, each gives back what it took
        assert api.call(method, path, body)[0] in (200, 404)


def test_a_number_that_is_too_large_is_told_as_one(api: Api) -> None:
    status, told = api.call("GET", f"/v1/operations/{10**20}")
    assert (status, told["detail"]) == (422, "a number is too large")


def test_what_is_at_no_address_is_told_so_and_not_sent_elsewhere(api: Api) -> None:
    """`singularity quota set team/ cpu:4` was answered with an empty redirection."""
    for path in ("/v1/projects/team/", "/v1/jobs/"):
        assert api.call("GET", path)[0] == 404
        assert api.call("GET", path)[1]["type"] == "/problems/not-found"


def plans(engine: Engine, ask: object) -> str:
    """How the database would answer what `ask` asks, among a great many rows."""
    asked: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, given: object, *___: object) -> None:
        if statement.lstrip().startswith("SELECT"):
            asked.append((statement, given))

    event.listen(engine, "before_cursor_execute", note)
    ask()  # type: ignore[operator]
    event.remove(engine, "before_cursor_execute", note)
    found = []
    with engine.connect() as db:
        db.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, given in asked:
            found += db.exec_driver_sql(f"EXPLAIN {statement}", given).scalars()  # type: ignore[arg-type]
    return "\n".join(found)


def test_replicas_and_verifications_are_found_without_a_look_at_all_jobs(engine: Engine) -> None:
    """Routers ask ten times a second."""
    for ask in (lambda: ServiceStore(engine).standings([], 0.0), SqlLedger(engine).shadows):
        assert "ix_job_kind_id" in plans(engine, ask)
