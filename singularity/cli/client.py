"""The API as the command line sees it: JSON in, JSON or an error of our tree out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx

from singularity.primitives.errors import NotFound, Rejected, SingularityError, Unavailable

from .session import Session

Json = dict[str, Any]
Query = Mapping[str, str | int | None]

PAGE_ITEMS: Final = 500
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
# A followed stream is silent for as long as the job is; only connecting may time out.
ENDLESS: Final = httpx.Timeout(None, connect=5.0)
# A server that restarts is back well within this; one that is gone for longer is worth an error.
PATIENCE_S: Final = 60.0
RECONNECT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event; `id` is where to go on after a broken connection."""

    id: str
    event: str
    data: str


def path_of(job: str, *more: str) -> str:
    """Where a job's things are; what a person typed stays one segment of the path."""
    return "/".join(("/v1/jobs", quote(job, safe=""), *more))


def problem(response: httpx.Response) -> SingularityError:
    """The error that a problem document stands for.

    Found by its slug; a slug this client does not know, or a body that is no problem document (a
    proxy's page), falls back to the class of its HTTP status.
    """
    try:
        body = response.json()
    except ValueError:
        body = {}
    return error_of(body if isinstance(body, dict) else {}, response.status_code)


def error_of(facts: Json, status: int) -> SingularityError:
    """The error that a problem document of that status, taken apart, stands for."""
    slug = str(facts.get("type", "")).rsplit("/", 1)[-1]
    detail = str(facts.get("detail") or facts.get("title") or f"HTTP {status}")
    cls = _known().get(slug) or _by_status(status)
    rest = {k: v for k, v in facts.items() if k not in ("type", "title", "status", "detail")}
    return cls(detail, **rest)


def _known() -> dict[str, type[SingularityError]]:
    found, todo = {}, [SingularityError]
    while todo:
        cls = todo.pop()
        found[cls.slug] = cls
        todo.extend(cls.__subclasses__())
    return found


def _by_status(status: int) -> type[SingularityError]:
    if status == httpx.codes.NOT_FOUND:
        return NotFound
    if status in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE):
        return Unavailable
    return Rejected if httpx.codes.is_client_error(status) else SingularityError


class Client:
    """One server and one token. Every method raises SingularityError and nothing else."""

    def __init__(self, session: Session, transport: httpx.BaseTransport | None = None) -> None:
        self.session = session
        self._http = httpx.Client(
            base_url=session.url,
            headers={"Authorization": f"Bearer {session.token}"},
            timeout=TIMEOUT,
            transport=transport,
        )

    def get(self, path: str, query: Query | None = None) -> Json:
        return self._send("GET", path, query=query)

    def post(self, path: str, body: Json | None = None, key: str | None = None) -> Json:
        """`key` makes the call safe to repeat: the server does it once."""
        return self._send("POST", path, body=body, key=key)

    def patch(self, path: str, body: Json) -> Json:
        return self._send("PATCH", path, body=body)

    def put(self, path: str, body: Json) -> Json:
        return self._send("PUT", path, body=body)

    def delete(self, path: str) -> Json:
        return self._send("DELETE", path)

    def items(self, path: str, query: Query | None = None, limit: int | None = None) -> list[Json]:
        """All items of a list, page after page, at most `limit`."""
        found: list[Json] = []
        cursor: str | None = None
        while True:
            page = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - len(found))
            answer = self.get(path, {**(query or {}), "limit": page, "cursor": cursor})
            found.extend(answer["items"])
            cursor = answer.get("next")
            if cursor is None or (limit is not None and len(found) >= limit):
                return found if limit is None else found[:limit]

    def text(self, path: str, query: Query | None = None) -> Iterator[str]:
        """A plain-text answer, in pieces as they arrive."""
        with self._open(path, query, {"Accept": "text/plain"}) as response:
            yield from response.iter_text()

    def messages(
        self, path: str, query: Query | None = None, ended: Callable[[], bool] = lambda: False
    ) -> Iterator[Message]:
        """Server-sent events of something, until `ended` says that it is over.

        A stream that stops earlier is opened again where it stopped (Last-Event-ID), so a restart
        of the server is not noticed. One that cannot be opened, or not again within PATIENCE_S,
        raises Unavailable.
        """
        last, give_up_s, opened = "", 0.0, False
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                over = ended()  # asked before the last look, so that nothing told late is missed
                with self._open(path, query, headers) as response:
                    opened, give_up_s = True, 0.0
                    for message in parse_events(response.iter_lines()):
                        last = message.id or last
                        yield message
                if over:
                    return
            except Unavailable:
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + PATIENCE_S
                if not opened or now_s > give_up_s:
                    raise
            threading.Event().wait(RECONNECT_S)

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Json | None = None,
        key: str | None = None,
    ) -> Json:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            response = self._http.request(
                method, path, params=_present(query), json=body, headers=headers
            )
        except httpx.HTTPError as error:
            raise self._away(error) from error
        except httpx.InvalidURL as error:
            raise Unavailable(f"{self.session.url!r} is no URL: {error}") from error
        if not response.is_success:
            raise problem(response)
        if not response.content:
            return {}
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise Unavailable(f"{self.session.url} does not speak our language") from error
        return answer

    @contextmanager
    def _open(
        self, path: str, query: Query | None, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        """A response to be read as it arrives; losing it midway raises Unavailable too."""
        request = self._http.build_request(
            "GET", path, params=_present(query), headers=dict(headers), timeout=ENDLESS
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise problem(response)
                yield response
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> Unavailable:
        why = str(error) or type(error).__name__
        return Unavailable(f"{self.session.url} does not answer: {why}")


def _present(query: Query | None) -> dict[str, str | int]:
    return {k: v for k, v in (query or {}).items() if v is not None}


def parse_events(lines: Iterator[str]) -> Iterator[Message]:
    """The events of an SSE stream; comments and an unfinished last event are dropped."""
    id_, event = "", "message"
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield Message(id_, event, "\n".join(data))
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id":
            id_ = value


def decode(message: Message) -> Any:
    """The JSON that a message carries. Raises Unavailable when it carries none."""
    try:
        return json.loads(message.data)
    except ValueError as error:
        raise Unavailable("the server sent a damaged event") from error
