"""The extender's routes. What a scheduler asks is answered in its own words: filter with 200
whatever was sent, since of any other status it reads no body; bind with 200 or 500."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from singularity.primitives.clock import Clock
from singularity.primitives.errors import InvalidSpec, SingularityError, TooLarge, Unavailable

from .answers import (
    Json,
    body_of,
    candidates,
    filtered,
    inspected,
    preempted,
    prioritized,
    unfiltered,
    unknown,
    without_gpus,
)
from .binding import Binder
from .cluster import Cluster
from .fleet import Fleet
from .watching import Watcher

PREFIX = "/gpushare-scheduler"


class Extender:
    def __init__(self, cluster: Cluster, clock: Clock, body_most_bytes: int) -> None:
        self._cluster, self._fleet, self._clock = cluster, Fleet(), clock
        self._most = body_most_bytes
        self._binder = Binder(cluster, self._fleet, clock)
        self._watcher = Watcher(cluster, self._fleet)

    @asynccontextmanager
    async def watching(self, _: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watcher.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._cluster.close()

    async def filter(self, request: Request) -> Response:
        try:
            asked = candidates(await self._body(request))
            return JSONResponse(filtered(asked, self._known(), self._clock.now_s()))
        except SingularityError as error:
            return JSONResponse(unfiltered(error.detail))

    async def prioritize(self, request: Request) -> Response:
        asked = candidates(await self._body(request))
        return JSONResponse(prioritized(asked, self._known(), self._clock.now_s()))

    async def preempt(self, request: Request) -> Response:
        body = await self._body(request)
        return JSONResponse(preempted(body, self._known(), self._clock.now_s()))

    async def bind(self, request: Request) -> Response:
        try:
            await self._binder.bind(await self._body(request))
            return JSONResponse({"Error": ""})
        except SingularityError as error:
            return JSONResponse({"Error": error.detail}, 500)

    async def inspect(self, node: str = "") -> Response:
        fleet, now_s = self._known(), self._clock.now_s()
        if not node:
            return JSONResponse(inspected(fleet.sharing(), fleet, now_s))
        if node not in fleet.nodes:
            return JSONResponse({"nodes": [], "Error": unknown(node)}, 404)
        found = fleet.node(node)
        return JSONResponse(inspected([found], fleet, now_s) if found else without_gpus(node))

    async def ready(self) -> Response:
        return PlainTextResponse("ok" if self._watcher.ready else "not yet", self._status())

    def _status(self) -> int:
        return 200 if self._watcher.ready else 503

    def _known(self) -> Fleet:
        if not self._watcher.ready:
            raise Unavailable("the cluster's nodes and pods are not known yet; try again")
        return self._fleet

    async def _body(self, request: Request) -> Json:
        """Raises InvalidSpec and TooLarge."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self._most:
                raise TooLarge(f"the body has more than {self._most} bytes")
        return body_of(bytes(content))


def create_app(cluster: Cluster, clock: Clock, body_most_bytes: int) -> FastAPI:
    extender = Extender(cluster, clock, body_most_bytes)
    app = FastAPI(lifespan=extender.watching, openapi_url=None)
    for name in ("filter", "prioritize", "preempt", "bind"):
        app.add_api_route(f"{PREFIX}/{name}", getattr(extender, name), methods=["POST"])
    app.add_api_route(f"{PREFIX}/inspect", extender.inspect)
    app.add_api_route(f"{PREFIX}/inspect/{{node}}", extender.inspect)
    app.add_api_route("/healthz", _alive)
    app.add_api_route("/readyz", extender.ready)
    app.add_api_route("/version", _version)
    app.add_exception_handler(SingularityError, _refused)
    return app


async def _alive() -> Response:
    return PlainTextResponse("ok")


async def _version() -> Response:
    return PlainTextResponse(version("singularity"))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, SingularityError)
    status = 400 if isinstance(error, InvalidSpec) else int(error.status)
    return JSONResponse({"Error": error.detail}, status)
