"""The pages as an application of their own, below /ui: their own errors, and their own headers."""

from __future__ import annotations

from typing import Final

from fastapi import Depends, FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from singularity.api import problems
from singularity.api.services import Services
from singularity.primitives.errors import InvalidSpec, NotFound, SingularityError

from . import doors, fleet_pages, job_pages, pages
from .rendering import STATIC
from .sessions import Sessions
from .showing import refused, same_site

# Scripts and styles are files of ours and nothing else: what a job is called, or prints, can
# neither run nor load anything, even where it should ever come into a page as it is.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer, forms would have no Origin
    "X-Content-Type-Options": "nosniff",
}


class Guarded:
    """Puts on every answer what browsers shall refuse. Pages are kept nowhere; static files may be
    kept for ever, for their addresses change with them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        static = "/static/" in scope.get("path", "")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                kept = static and message["status"] == 200
                headers["Cache-Control"] = (
                    "public, max-age=31536000, immutable" if kept else "no-store"
                )
            await send(message)

        await self._app(scope, receive, guarded)


def create_pages(serving: Services) -> FastAPI:
    """To be mounted at /ui; it works with what the routes work with."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, dependencies=[Depends(same_site)])
    app.state.services = serving
    app.state.sessions = Sessions(serving.key, serving.tokens)
    app.add_middleware(Guarded)
    problems.install(app, refused)

    @app.exception_handler(HTTPException)
    async def lost(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return refused(request, NotFound("there is no such page"))
        known = InvalidSpec if error.status_code < 500 else SingularityError
        return refused(request, known(str(error.detail)))

    for module in (doors, pages, job_pages, fleet_pages):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
