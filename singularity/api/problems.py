"""Errors as problem documents (RFC 9457). One place decides what a client sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.errors import NumericValueOutOfRange
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from singularity.primitives.errors import (
    InvalidSpec,
    SingularityError,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

_SLUGS: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body-too-large"}  # its phrase has changed


def document(error: SingularityError) -> dict[str, Any]:
    """The body that tells a client about `error`; facts are fields beside the standard ones."""
    standard = {
        "type": f"/problems/{error.slug}",
        "title": error.slug.replace("-", " ").capitalize(),
        "status": int(error.status),
        "detail": error.detail,
    }
    return {**jsonable_encoder(error.facts), **standard}


def problem(error: SingularityError) -> JSONResponse:
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    return JSONResponse(document(error), int(error.status), headers, "application/problem+json")


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


def plainly(_: Request, error: SingularityError) -> Response:
    return problem(error)


def install(
    app: FastAPI, answer: Callable[[Request, SingularityError], Response] = plainly
) -> None:
    """Teach `app` to answer every failure by `answer`: with a problem document, or in another way.
    What no route was found for stays a problem document."""

    @app.exception_handler(SingularityError)
    async def ours(request: Request, error: SingularityError) -> Response:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def bad_request(request: Request, error: RequestValidationError) -> Response:
        return answer(request, invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def routing(_: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        slug = _SLUGS.get(status, status.phrase.lower().replace(" ", "-"))
        body = {
            "type": f"/problems/{slug}",
            "title": slug.replace("-", " ").capitalize(),
            "status": int(status),
            "detail": str(error.detail),
        }
        return JSONResponse(body, int(status), error.headers, "application/problem+json")

    @app.exception_handler(DBAPIError)
    async def database(request: Request, error: DBAPIError) -> Response:
        if isinstance(error.orig, NumericValueOutOfRange):
            return answer(request, InvalidSpec("a number is too large"))
        if isinstance(error, DataError):
            told = "some text holds characters that cannot be stored"
            return answer(request, InvalidSpec(told))
        away = isinstance(error, OperationalError) or error.connection_invalidated
        log.error("database", extra={"path": request.url.path, "reason": str(error.orig)})
        if away:
            return answer(request, Unavailable("the database does not answer; try again"))
        return answer(request, SingularityError("an internal error; the server's log has it"))

    @app.exception_handler(PoolTimeout)
    async def crowded(request: Request, _: PoolTimeout) -> Response:
        log.error("no connection free", extra={"path": request.url.path})
        return answer(request, Unavailable("the database has more to do than it can; try again"))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        log.exception("bug", extra={"path": request.url.path, "error": type(error).__name__})
        return answer(request, SingularityError("an internal error; the server's log has it"))
