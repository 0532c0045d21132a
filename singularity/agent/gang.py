"""How the nodes of one gang talk: in a cut each sends its View to the lead and is answered with the
lead's Order; after a handover each fetches what it was left. Plain HTTP between agents; the gang's
secret proves membership, and the handover's token a claim to it."""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from singularity.primitives.errors import NodeUnreachable
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

from .barrier import CutState, Order, Verdict, View, give_up, react

_BODY_MOST: Final = 64 * 1024
_ANSWER_S: Final = 2.0
_ORDER = TypeAdapter(Order)


@dataclass(frozen=True, slots=True)
class CutRef:
    """Names one cut of one incarnation."""

    job: JobId
    incarnation: int
    cut: int


@dataclass(frozen=True, slots=True)
class Message:
    ref: CutRef
    view: View


_MESSAGE = TypeAdapter(Message)


@dataclass(frozen=True, slots=True)
class LeadRecord:
    """What a lead must not forget: to whom it answers, and what it has said."""

    ref: CutRef
    gang: tuple[NodeId, ...]
    secret: str
    order: Order = field(default_factory=Order)


_RECORD = TypeAdapter(LeadRecord)


class Lead:
    """The lead's side of one cut. What it has committed or decided is on disk before anybody
    hears of it, so that a lead that died and came back cannot say otherwise."""

    def __init__(self, path: Path, record: LeadRecord) -> None:
        self._lock = threading.Lock()
        self._path, self._record = path, record
        self._cut = CutState(record.gang, order=record.order)

    @classmethod
    def load(cls, path: Path) -> tuple[CutRef, Lead]:
        record = _RECORD.validate_json(path.read_bytes())
        return record.ref, cls(path, record)

    def knows(self, secret: str) -> bool:
        return hmac.compare_digest(secret.encode(), self._record.secret.encode())

    def hear(self, view: View) -> Order:
        with self._lock:
            return self._take(react(self._cut, view))

    def give_up(self, reason: str) -> Order:
        with self._lock:
            return self._take(give_up(self._cut, reason))

    def _take(self, cut: CutState) -> Order:
        before, now = self._cut.order, cut.order
        if (now.commit, now.verdict) != (before.commit, before.verdict):
            self._record = replace(self._record, order=now)
            write_durably(self._path, _RECORD.dump_json(self._record))
        self._cut = cut
        return now


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` so that after a crash it holds the old bytes or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


Judge = Callable[[CutRef, View, str], Order | None]
Give = Callable[[str, str], Iterator[bytes] | None]


def nothing_to_give(_path: str, _token: str) -> None:
    """What a node answers that keeps no handovers."""


class GangServer:
    """Answers Views on `host`; `judge(ref, view, secret)` is None for a cut not known (yet) or a
    secret that does not fit. `give(path, token)` is the stream behind a path, None for none; it
    raises NodeUnreachable to be asked again."""

    def __init__(
        self, host: str, judge: Judge, give: Give = nothing_to_give, port: int = 0
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else an answer waits 40 ms for its header's receipt

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                if not 0 < length <= _BODY_MOST:
                    self.close_connection = True
                    return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"{}")
                secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
                try:
                    message = _MESSAGE.validate_json(self.rfile.read(length))
                except ValidationError:
                    return self._answer(HTTPStatus.BAD_REQUEST, b"{}")
                order = judge(message.ref, message.view, secret)
                if order is None:
                    return self._answer(HTTPStatus.NOT_FOUND, b"{}")
                return self._answer(HTTPStatus.OK, _ORDER.dump_json(order))

            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                try:
                    parts = give(self.path, token)
                except NodeUnreachable:
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"{}")
                    return
                if parts is None:
                    self._answer(HTTPStatus.NOT_FOUND, b"{}")
                    return
                self.close_connection = True
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                # Whoever let go of it meanwhile, or of us, leaves a stream without an end.
                with suppress(OSError):
                    for part in parts:
                        self.wfile.write(part)

            def _answer(self, status: HTTPStatus, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Requests come every few milliseconds during a cut; none is news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        thread = threading.Thread(target=self._server.serve_forever, name="gang", daemon=True)
        thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class GangClient:
    """One member's connection to the lead, kept open for the length of a cut."""

    def __init__(self, address: str, secret: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = HTTPConnection(host, int(port), timeout=_ANSWER_S)
        self._secret = secret

    def ask(self, ref: CutRef, view: View) -> Order:
        """The lead's order. Raises NodeUnreachable: ask again, nothing was lost."""
        body = _MESSAGE.dump_json(Message(ref, view))
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            self._connection.request("POST", "/", body, headers)
            response = self._connection.getresponse()
            answer = response.read(_BODY_MOST)
            if response.status != HTTPStatus.OK:
                raise NodeUnreachable(f"the lead does not know the cut yet: {response.status}")
            return _ORDER.validate_json(answer)
        except (OSError, HTTPException, ValidationError, json.JSONDecodeError) as error:
            self._connection.close()
            raise NodeUnreachable(f"the lead of the gang does not answer: {error}") from error

    def close(self) -> None:
        self._connection.close()


def decided(order: Order) -> bool:
    return order.verdict is not Verdict.GATHER
