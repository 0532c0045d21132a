"""The client: errors of the server become errors of our tree, lists are whole, streams go on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from cli_planet import Planet, items
from cli_planet import problem as refusal
from hypothesis import given
from hypothesis import strategies as st

from singularity.cli.client import Message, parse_events, path_of, problem
from singularity.primitives.errors import (
    NotFound,
    Rejected,
    SingularityError,
    StoreFull,
    Unavailable,
)


def known(cls: type[SingularityError] = SingularityError) -> Iterator[type[SingularityError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from known(child)


@pytest.mark.parametrize("cls", sorted(known(), key=lambda c: c.slug))
def test_every_error_of_the_tree_survives_the_wire(cls: type[SingularityError]) -> None:
    found = problem(refusal(cls.status, cls.slug, "why not", near=["a"]))
    assert type(found) is cls
    assert found.detail == "why not"
    assert found.facts == {"near": ["a"]}


@pytest.mark.parametrize(
    ("status", "cls"),
    [(404, NotFound), (418, Rejected), (503, Unavailable), (502, Unavailable), (500, Exception)],
)
def test_an_answer_that_is_no_problem_document_is_judged_by_its_status(
    status: int, cls: type[Exception]
) -> None:
    for response in (
        httpx.Response(status, text="<html>proxy</html>"),
        httpx.Response(status, json=["odd"]),
        refusal(status, "invented-tomorrow", "new"),
    ):
        assert isinstance(problem(response), cls)


def test_a_full_store_is_no_refusal() -> None:
    assert isinstance(problem(refusal(507, "store-full", "no space")), StoreFull)


def test_a_list_is_read_to_its_end() -> None:
    planet = Planet({"GET /v1/jobs": [items("a", "b", next="x"), items("c")]})
    assert planet.client().items("/v1/jobs") == ["a", "b", "c"]
    assert "cursor" not in planet.asked[0].url.params
    assert planet.asked[1].url.params["cursor"] == "x"


def test_a_limit_asks_for_no_more_than_it_needs() -> None:
    planet = Planet({"GET /v1/jobs": [items("a", "b", next="x"), items("c", "d", next="y")]})
    assert planet.client().items("/v1/jobs", limit=3) == ["a", "b", "c"]
    assert [r.url.params["limit"] for r in planet.asked] == ["3", "1"]


def test_the_token_goes_with_every_request() -> None:
    planet = Planet({"GET /v1/jobs": items()})
    planet.client().items("/v1/jobs")
    assert planet.asked[0].headers["authorization"] == "Bearer sg_1.secret"


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(Unavailable, match="connection refused"):
        Planet({"GET /v1/jobs": refuse}).client().get("/v1/jobs")


def test_a_server_that_speaks_something_else_is_unavailable() -> None:
    planet = Planet({"GET /v1/jobs": httpx.Response(200, text="hello")})
    with pytest.raises(Unavailable, match="language"):
        planet.client().get("/v1/jobs")


class Torn(httpx.SyncByteStream):
    """Sends `data`, then loses the connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise httpx.ReadError("connection reset")


def test_a_torn_event_stream_goes_on_where_it_was_torn() -> None:
    first = httpx.Response(200, stream=Torn(b"id: 4\ndata: a\n\nid: 5\ndata: b"))
    second = httpx.Response(200, text="id: 5\ndata: b\n\n")
    planet = Planet({"GET /v1/events": [first, second]})
    ends = iter([False, True])
    found = planet.client().messages("/v1/events", ended=lambda: next(ends))
    assert [m.data for m in found] == ["a", "b"]
    assert "last-event-id" not in planet.asked[0].headers
    assert planet.asked[1].headers["last-event-id"] == "4"


def test_a_torn_text_stream_is_an_error_of_the_tree() -> None:
    planet = Planet({"GET /v1/jobs/a/logs": httpx.Response(200, stream=Torn(b"line\n"))})
    with pytest.raises(Unavailable, match="reset"):
        list(planet.client().text("/v1/jobs/a/logs"))


DATA = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)


@given(st.lists(st.tuples(st.integers(1, 999), st.lists(DATA, min_size=1, max_size=3))))
def test_events_come_out_as_they_were_put_in(sent: list[tuple[int, list[str]]]) -> None:
    lines: list[str] = []
    for id_, data in sent:
        lines += [": ping", f"id: {id_}", "event: change", *(f"data: {d}" for d in data), ""]
    found = list(parse_events(iter([*lines, "data: unfinished"])))
    assert found == [Message(str(id_), "change", "\n".join(data)) for id_, data in sent]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_what_a_person_types_stays_one_segment_of_the_path(name: str) -> None:
    assert path_of(name, "why").count("/") == 4
