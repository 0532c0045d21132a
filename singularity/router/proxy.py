"""Passes requests to replicas and their answers back, piece by piece as they come."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from singularity.primitives.errors import (
    InvalidSpec,
    NotCarried,
    NotFound,
    Overloaded,
    ReplicaFailed,
    ReplicaLate,
    SingularityError,
    TooLarge,
    Unavailable,
)

from .addressing import Target, candidates, introduce, passed_on
from .desk import Desk, Refused
from .desks import Desks
from .pool import Turn, Why
from .settings import RouterSettings

log = logging.getLogger(__name__)

# Asking twice is like asking once (RFC 9110, 9.2.2).
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_SERVER_ERROR: Final = 500
# Of unused connections to replicas: less than the 5 s after which common servers close theirs, for
# a request that meets a closing connection may be lost, and not all can be repeated.
_UNUSED_S: Final = 2.0
_OURS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # aiohttp would add


class _Undelivered(Exception):
    """The replica did not get the request, or it does no harm to ask another one."""


class _Exchange:
    """One request and what is passed on of it."""

    def __init__(self, request: web.BaseRequest, target: Target, most_bytes: int) -> None:
        self.request, self.target, self._most_bytes = request, target, most_bytes
        self.headers = passed_on(request.headers)
        self.id = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        who = {"for": request.remote or "", "host": _host(request), "proto": request.scheme}
        introduce(self.headers, target, {**who, "id": self.id})
        self.too_large = (request.content_length or 0) > most_bytes
        self._begun = self._repeated = False

    def body(self) -> AsyncIterator[bytes] | None:
        return self._pieces() if self.request.body_exists else None

    def repeatable(self, *, sent: bool) -> bool:
        """Whether another replica may be asked. `sent`: this one may have got it; then once, for a
        request that ends whoever gets it must not go round."""
        if self._begun or (sent and (self._repeated or self.request.method not in _IDEMPOTENT)):
            return False
        self._repeated |= sent
        return True

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. It can be had once."""
        self._begun, read_bytes = True, 0
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for piece in self.request.content.iter_any():
            read_bytes += len(piece)
            if read_bytes > self._most_bytes:
                self.too_large = True
                raise TooLarge("the body is too long")
            yield piece


class Proxy:
    """`http` is the session to replicas, see `open_session`. `own` are paths that are answered
    here, where they name no service."""

    def __init__(
        self,
        settings: RouterSettings,
        desks: Desks,
        http: aiohttp.ClientSession,
        own: Mapping[str, Callable[[], web.Response]],
    ) -> None:
        self._settings, self._desks, self._http, self._own = settings, desks, http, own

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except SingularityError as error:
            return problem(error)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        _refuse_tunnels(request)
        found = self._find(request)
        if found is None:
            if own := self._own.get(request.path):
                return own()
            if not self._desks.told:
                raise Unavailable("this router has not yet been told which services there are")
            raise NotFound(
                "no such service: ask for /<project>/<service>/..., or set Host to "
                "<service>.<project>; `singularity services` lists them"
            )
        desk, target = found
        exchange = _Exchange(request, target, self._settings.body_most_bytes)
        if exchange.too_large:
            raise self._too_large()
        try:
            return await self._exchange(exchange, desk)
        except Refused as refused:
            raise _refusal(refused.why) from None

    def _find(self, request: web.BaseRequest) -> tuple[Desk, Target] | None:
        path = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
        if not path.startswith("/"):  # OPTIONS *
            raise InvalidSpec(f"{path[:64]!r} is no path; ask for one that begins with /")
        for target in candidates(_host(request), path):
            desk = self._desks.find(target.name)
            if desk is not None:
                return desk, target
        return None

    async def _exchange(self, exchange: _Exchange, desk: Desk) -> web.StreamResponse:
        """From the first turn to the last byte. Whatever happens, each turn is given back once."""
        turn = await desk.turn()
        while True:
            try:
                answer = await self._ask(exchange, turn)
            except _Undelivered as error:
                log.info("not delivered", extra={"to": turn.place.address, "reason": str(error)})
                turn = await desk.again(turn)
            except ReplicaLate:  # it may have come late to the replica
                desk.end(turn, good=False, healthy=None)
                raise
            except ReplicaFailed:
                desk.end(turn, good=False, healthy=False)
                raise
            except BaseException:
                desk.end(turn, good=None, healthy=None)
                raise
            else:
                return await self._answer(exchange, desk, turn, answer)

    async def _ask(self, exchange: _Exchange, turn: Turn) -> aiohttp.ClientResponse:
        """Send it; the beginning of the answer."""
        settings, request = self._settings, exchange.request
        left_s = turn.request.until_s - asyncio.get_running_loop().time()
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=settings.connect_s,
            sock_read=max(settings.idle_s, left_s),
        )
        url = URL(f"http://{turn.place.address}{exchange.target.path}", encoded=True)
        try:
            async with asyncio.timeout_at(turn.request.until_s):
                return await self._http.request(
                    request.method,
                    url,
                    data=exchange.body(),
                    headers=exchange.headers,
                    allow_redirects=False,
                    timeout=timeout,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._trouble(exchange, error, sent=False) from error
        except TimeoutError as error:
            raise ReplicaLate("the replica did not answer in time") from error
        except aiohttp.ClientError as error:
            raise self._trouble(exchange, error, sent=True) from error

    def _trouble(self, exchange: _Exchange, error: Exception, *, sent: bool) -> Exception:
        if exchange.too_large:
            return self._too_large()
        reason = f"{type(error).__name__}: {error}"
        if exchange.repeatable(sent=sent):
            return _Undelivered(reason)
        return ReplicaFailed("the replica broke off before it answered; it may have done something")

    async def _answer(
        self, exchange: _Exchange, desk: Desk, turn: Turn, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass the answer on. One that breaks off in the middle does so at the other end too; a
        client that takes nothing of it for `idle_s` is hung up on, for it keeps a replica busy."""
        good, healthy = None, None
        try:
            reply = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=passed_on(answer.headers)
            )
            reply.headers["X-Request-Id"] = exchange.id
            waited_s = turn.began_s - turn.request.came_s
            reply.headers.add("Server-Timing", f"queue;dur={waited_s * 1e3:.1f}")
            await reply.prepare(exchange.request)
            try:
                async for piece in _pieces(answer):
                    async with asyncio.timeout(self._settings.idle_s):
                        await reply.write(piece)
            except ReplicaFailed:
                good, healthy = False, False
                return _broken_off(exchange, reply)
            except TimeoutError:
                log.info("client takes nothing", extra={"service": exchange.target.name})
                return _broken_off(exchange, reply)
            await reply.write_eof()
            good, healthy = answer.status < _SERVER_ERROR, True
            return reply
        finally:
            if good is None or not healthy:
                answer.close()
            else:
                answer.release()
            desk.end(turn, good=good, healthy=healthy)

    def _too_large(self) -> TooLarge:
        most_bytes = self._settings.body_most_bytes
        return TooLarge(f"the body is longer than {most_bytes} bytes", most_bytes=most_bytes)


def _host(request: web.BaseRequest) -> str:
    """As it was sent: where none was, `request.host` would ask the name server who we are."""
    return request.headers.get("Host", "")


def _refuse_tunnels(request: web.BaseRequest) -> None:
    """Raises NotCarried for what would be no exchange of a request and its answer."""
    upgrades = [word.strip().lower() for word in request.headers.get("Upgrade", "").split(",")]
    if request.method == "CONNECT" or "websocket" in upgrades:
        raise NotCarried(
            "routers pass on requests and their answers, no tunnels and no WebSocket; stream the "
            "answer instead, as server-sent events for example"
        )


def _broken_off(exchange: _Exchange, reply: web.StreamResponse) -> web.StreamResponse:
    """The client must not take what it has for all."""
    if exchange.request.transport is not None:
        exchange.request.transport.abort()
    return reply


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ReplicaFailed("the replica broke off in the middle of its answer") from error


def _refusal(why: Why) -> SingularityError:
    match why:
        case Why.FULL:
            return Overloaded("as many requests wait for this service as may; try again")
        case Why.LATE:
            return ReplicaLate("no replica was free in time; try again")
        case Why.GONE:
            return NotFound("the service is gone")


def problem(error: SingularityError) -> web.Response:
    """As the API tells of errors (RFC 9457)."""
    body = {
        **error.facts,
        "type": f"/problems/{error.slug}",
        "title": error.slug.replace("-", " ").capitalize(),
        "status": int(error.status),
        "detail": error.detail,
    }
    headers = {"Retry-After": "1"} if isinstance(error, Unavailable) else {}
    return web.Response(
        status=int(error.status),
        headers=headers,
        body=json.dumps(body).encode(),
        content_type="application/problem+json",
    )


def open_session(settings: RouterSettings) -> aiohttp.ClientSession:
    """To replicas: as many connections as there are requests, nothing added and nothing undone."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_UNUSED_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_OURS,
        max_line_size=settings.head_most_bytes,
        max_field_size=settings.head_most_bytes,
    )
    session._retry_connection = False  # it would send again what we count as sent once
    return session
