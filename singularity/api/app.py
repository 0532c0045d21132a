"""The HTTP server: routes, one way of failing, and limits on what comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import problems
from .contract import contract
from .routes import (
    agents,
    drains,
    enrolment,
    fleet,
    history,
    jobs,
    logins,
    maintenance,
    operations,
    plane,
    plans,
    projects,
    queue,
    rebalance,
    routers,
    services,
    shares,
    tokens,
    verifications,
)
from .service_metrics import service_metrics
from .services import Overseer, Services, Serving, Viewer, known
from .settings import Settings
from .telemetry import Meter
from .web.app import create_pages

BODY_MOST_BYTES: Final = 1024 * 1024
OPEN: Final = "/healthz"  # to everybody
PAGES: Final = "/ui"  # which know by themselves whom they let in
METRICS_TYPE: Final = "text/plain; version=0.0.4"
_FLEET: Final = (fleet, drains, maintenance, operations, rebalance, shares, projects, plans, plane)
_ASKED: Final = (jobs, queue, verifications, history, services, *_FLEET, enrolment, tokens, logins)
DOORS: Final = (agents, routers, *_ASKED)  # tried in this order: first who asks most


class Gate:
    """Lets in who is known, before anything of the request is read; refuses bodies over 1 MiB,
    whatever they claim to be, and counts answers."""

    def __init__(self, app: ASGIApp, meter: Meter, serving: Services) -> None:
        self._app, self._meter, self._serving = app, meter, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, taken = 0, 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_MOST_BYTES:
                # Only this kind passes through the reading of the body as it is.
                raise HTTPException(413, f"a body may have {BODY_MOST_BYTES} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (await self._past(scope))(scope, limited, noted)
        finally:
            self._meter.request(scope["method"], status)

    async def _past(self, scope: Scope) -> ASGIApp:
        """Where the request goes: on, or to the answer that turns it away."""
        path = scope["path"]
        if path not in (OPEN, "/", PAGES) and not path.startswith(f"{PAGES}/"):
            try:
                scope["caller"] = await known(scope, self._serving)
            except Exception as error:
                return problems.answer(error, path)
        return self._app


def create_app(settings: Settings) -> FastAPI:
    """The database must be migrated. The first admin's token is `settings.admin_token`."""
    serving, meter = Services.open(settings), Meter()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if settings.admin_token:
            serving.tokens.first(settings.admin_token, serving.clock.now_s())
        yield
        serving.close()

    # No page or schema for those who have no token: openapi_url stays off, ours needs one.
    app = FastAPI(
        title="Singularity",
        version="1",
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services = serving
    app.add_middleware(Gate, meter=meter, serving=serving)
    problems.install(app)
    for door in DOORS:
        app.include_router(door.router)
    app.mount(PAGES, create_pages(serving))
    described = cache(partial(contract, app.title, app.version, app.routes))

    @app.get("/", include_in_schema=False)
    @app.get(PAGES, include_in_schema=False)
    def pages() -> RedirectResponse:
        return RedirectResponse(f"{PAGES}/")

    @app.get(OPEN, include_in_schema=False)
    def health() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/metrics", include_in_schema=False)
    def metrics(who: Overseer, serving: Serving) -> PlainTextResponse:
        offered = serving.offered.services(who)
        measured = serving.offered.standings(offered, serving.clock.now_s()) if offered else []
        text = meter.scrape(serving.engine, service_metrics(measured))
        return PlainTextResponse(text, media_type=METRICS_TYPE)

    @app.get("/v1/openapi.json", include_in_schema=False)
    def openapi(_: Viewer) -> dict[str, Any]:
        return described()

    return app
