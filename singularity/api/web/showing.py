"""How a page is put together: who is shown it, as a whole or as the part that is refreshed."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from singularity.api.auth import Caller, Role, check_origin
from singularity.api.services import Serving
from singularity.primitives.errors import SingularityError, Unauthenticated

from .rendering import render
from .sessions import Sessions

HOME: Final = "/ui/"
LOGIN: Final = "/ui/login"
# Of each page: its key, what it is called, where it is, and whether it is for all projects only.
PLACES: Final = (
    ("world", "World", HOME, False),
    ("queue", "Queue", "/ui/queue", False),
    ("jobs", "Jobs", "/ui/jobs", False),
    ("services", "Services", "/ui/services", False),
    ("fairness", "Fairness", "/ui/fairness", False),
    ("fleet", "Fleet", "/ui/fleet", False),
    ("drains", "Drains", "/ui/drains", True),
    ("plane", "Control plane", "/ui/plane", True),
)


def sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


Signed = Annotated[Sessions, Depends(sessions)]


async def same_site(request: Request, serving: Serving) -> None:
    """Raises Forbidden, as for the routes."""
    check_origin(request.headers, serving.settings.allowed_hosts)


async def visitor(request: Request, serving: Serving, known: Signed) -> Caller:
    """Who looks. Raises Unauthenticated."""
    cookie, now_s = request.cookies.get(known.cookie, ""), serving.clock.now_s()
    who = await run_in_threadpool(known.caller, cookie, now_s)
    who.need(Role.VIEWER)
    return who


async def planet_visitor(who: Annotated[Caller, Depends(visitor)]) -> Caller:
    who.need_planet(Role.VIEWER)
    return who


Visitor = Annotated[Caller, Depends(visitor)]
PlanetVisitor = Annotated[Caller, Depends(planet_visitor)]


def page(request: Request, name: str, who: Caller, now_s: float, **context: Any) -> Response:
    """The page of that template; of one that refreshes itself only its main part."""
    known: Sessions = request.app.state.sessions
    query = f"?{request.url.query}" if request.url.query else ""
    whole = {
        "partial": "hx-request" in request.headers,
        "here": request.url.path + query,
        "who": who,
        "places": [p for p in PLACES if not p[3] or who.project is None],
        "proof": known.proof(request.cookies.get(known.cookie, "")),
        "now_s": now_s,
        "ago": lambda at_s: None if at_s is None else max(0.0, now_s - at_s),
    }
    return render(f"{name}.html", {**whole, **context})


def refused(request: Request, error: SingularityError) -> Response:
    """A page that says what is wrong; to whoever is not known, where to say who they are."""
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if isinstance(error, Unauthenticated) and request.url.path != LOGIN:
        login = f"{LOGIN}?next={quote(back, safe='')}"
        if "hx-request" in request.headers:
            current = request.headers.get("hx-current-url", "")
            back = back if not current else "/" + current.split("/", 3)[-1]
            login = f"{LOGIN}?next={quote(back, safe='')}"
            return Response(status_code=401, headers={"HX-Redirect": login})
        return RedirectResponse(login, 303)
    title = error.slug.replace("-", " ").capitalize()
    context = {"title": title, "error": error, "near": error.facts.get("near", [])}
    return render("error.html", context, int(error.status))
