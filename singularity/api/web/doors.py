"""Signing in and out. Whoever shows a token, or a code of `singularity dashboard`, is let in."""

from __future__ import annotations

import secrets
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from singularity.api.services import Serving
from singularity.primitives.errors import InvalidSpec, SingularityError

from .rendering import render
from .sessions import LASTS_S, Sessions
from .showing import HOME, LOGIN, Signed, Visitor, visitor

router = APIRouter(include_in_schema=False)

_FORM_S: Final = 3600
_FIELD_MOST: Final = 4096
Next = Annotated[str, Query(alias="next", max_length=1000)]


async def form(request: Request) -> dict[str, str]:
    """The fields that were sent. Raises InvalidSpec."""
    body = await request.body()
    try:
        found = parse_qs(body.decode(), max_num_fields=10)
    except ValueError:
        raise InvalidSpec("that is no form") from None
    return {name: values[0][:_FIELD_MOST] for name, values in found.items()}


Form = Annotated[dict[str, str], Depends(form)]


@router.get("/login")
def ask(request: Request, known: Signed, next_: Next = HOME) -> Response:
    return _asked(request, known, _inside(next_), None)


@router.post("/login")
async def enter(request: Request, sent: Form, serving: Serving, known: Signed) -> Response:
    known.check(request.cookies.get(known.form_cookie, ""), sent.get("proof", ""))
    back, shown = _inside(sent.get("next", HOME)), sent.get("shown", "")
    try:
        cookie = await run_in_threadpool(known.begin, shown, serving.clock.now_s())
    except SingularityError as error:
        return _asked(request, known, back, error)
    answer = RedirectResponse(back, 303)
    _set(request, answer, known.cookie, cookie, LASTS_S)
    answer.delete_cookie(known.form_cookie, path="/ui")
    return answer


@router.get("/session", status_code=204, dependencies=[Depends(visitor)])
def session() -> None:
    """Is anybody signed in? Asked by the login page: after a link from another web site a browser
    does not show a cookie that it has."""


@router.post("/logout")
async def leave(request: Request, sent: Form, _: Visitor, known: Signed) -> Response:
    known.check(request.cookies.get(known.cookie, ""), sent.get("proof", ""))
    answer = RedirectResponse(LOGIN, 303)
    answer.delete_cookie(known.cookie, path="/ui")
    return answer


def _asked(
    request: Request, known: Sessions, back: str, error: SingularityError | None
) -> Response:
    anchor = request.cookies.get(known.form_cookie, "") or secrets.token_urlsafe(16)
    context = {"next": back, "proof": known.proof(anchor), "error": error}
    answer = render("login.html", context, int(error.status) if error else 200)
    _set(request, answer, known.form_cookie, anchor, _FORM_S)
    return answer


def _set(request: Request, answer: Response, name: str, value: str, lasts_s: int) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=lasts_s,
        path="/ui",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def _inside(back: str) -> str:
    """Where to go on: a page of ours, and nothing else."""
    plain = back.isprintable() and "\\" not in back
    return back if plain and back.startswith(HOME) and not back.startswith(LOGIN) else HOME
