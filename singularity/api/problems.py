"""Errors as problem documents (RFC 9457). One place decides what a client sees."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from psycopg.errors import NumericValueOutOfRange
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from singularity.primitives.errors import (
    InvalidSpec,
    NotAllowed,
    NotFound,
    Rejected,
    SingularityError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"
_NO_TEXT: Final = "some text holds characters that cannot be stored"
_OURS: Final = "an internal error; the server's log has it"
# What the framework refuses by itself, before any of ours is asked.
_FRAMEWORK: Final = {kind.status: kind for kind in (NotFound, NotAllowed, TooLarge)}


def document(error: SingularityError) -> dict[str, Any]:
    """The body that tells a client about `error`; facts are fields beside the standard ones."""
    standard = {
        "type": f"/problems/{error.slug}",
        "title": error.slug.replace("-", " ").capitalize(),
        "status": int(error.status),
        "detail": error.detail,
    }
    return {**jsonable_encoder(error.facts), **standard}


def problem(error: SingularityError) -> Response:
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    # What was sent may be told again, also what is no text: half a pair of surrogates.
    text = json.dumps(document(error), separators=(",", ":"))
    return Response(text, int(error.status), headers, PROBLEM)


def faults(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Where a document is wrong and why, without repeating what was sent: it may hold secrets."""
    out = []
    for error in errors:
        path = ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        out.append({"field": path, "why": str(error["msg"]).removeprefix("Value error, ")})
    return out


def invalid(errors: Sequence[Mapping[str, Any]]) -> InvalidSpec:
    found = faults(errors)
    told = "; ".join(f"{f['field']}: {f['why']}" if f["field"] else f["why"] for f in found)
    return InvalidSpec(told, errors=found)


def answer(error: Exception, path: str) -> Response:
    """What whoever asked for `path` is told when `error` came of it."""
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        kind = _FRAMEWORK.get(status, Rejected)
        body = document(kind(str(error.detail))) | {"status": int(status)}
        return JSONResponse(body, int(status), error.headers, PROBLEM)
    return problem(judged(error, path))


def judged(error: Exception, path: str) -> SingularityError:
    """Which of ours it is."""
    if isinstance(error, SingularityError):
        return error
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, DBAPIError):
        return _database(error, path)
    if isinstance(error, UnicodeEncodeError):
        return InvalidSpec(_NO_TEXT)
    if isinstance(error, PoolTimeout):
        log.error("no connection free", extra={"path": path})
        return Unavailable("the database has more to do than it can; try again")
    log.error("bug", extra={"path": path, "error": type(error).__name__}, exc_info=error)
    return SingularityError(_OURS)


def _database(error: DBAPIError, path: str) -> SingularityError:
    if isinstance(error.orig, NumericValueOutOfRange):
        return InvalidSpec("a number is too large")
    if isinstance(error, DataError):
        return InvalidSpec(_NO_TEXT)
    away = isinstance(error, OperationalError) or error.connection_invalidated
    log.error("database", extra={"path": path, "reason": str(error.orig)})
    if away:
        return Unavailable("the database does not answer; try again")
    return SingularityError(_OURS)


def install(
    app: FastAPI, show: Callable[[Request, SingularityError], Response] | None = None
) -> None:
    """Teach `app` to answer every failure with a problem document, or to `show` it in another way.
    What no route was found for stays a problem document."""

    async def told(request: Request, error: Exception) -> Response:
        path = request.url.path
        if show is None or isinstance(error, HTTPException):
            return answer(error, path)
        return show(request, judged(error, path))

    ours = (SingularityError, RequestValidationError, HTTPException, DBAPIError, PoolTimeout)
    for kind in (*ours, Exception):
        app.add_exception_handler(kind, told)
