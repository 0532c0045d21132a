"""Puts one router together from its settings, and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.http import HttpProcessingError

from .control import Control
from .desks import Desks
from .pool import Policy
from .proxy import Proxy, open_session
from .settings import RouterSettings

_BACKLOG: Final = 1024  # connections that wait to be accepted: a burst is not refused
_CLIENT_UNUSED_S: Final = 75.0
_LINGER_S: Final = 2.0  # for the rest of a body that nobody wants


class _Strangers(logging.Filter):
    """Leaves out what is no HTTP: who sent it was told, and could fill the disk with what we say of
    it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


async def run(settings: RouterSettings) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new, and let what is running end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings.data.mkdir(parents=True, exist_ok=True)
    headers = {"Authorization": f"Bearer {settings.router_token}"}
    async with (
        aiohttp.ClientSession(settings.api_url, headers=headers) as api,
        open_session(settings) as replicas,
        AsyncExitStack() as stack,
    ):
        desks = Desks(settings.router, settings.region, Policy())
        control = Control(api, settings.region, settings.data / "table.json", desks.use)
        control.recall()
        own: dict[str, Callable[[], web.Response]] = {
            "/healthz": partial(_health, desks),
            "/metrics": lambda: web.Response(text=desks.metrics(control.heard_s)),
        }
        runner = _runner(settings, Proxy(settings, desks, replicas, own))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG).start()
        work = [control.follow(), control.tell(desks.loads), stop.wait()]
        tasks = [asyncio.ensure_future(each) for each in work]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in done:
            task.result()  # a bug in one of them ends us all, and the supervisor begins anew


def _runner(settings: RouterSettings, proxy: Proxy) -> web.ServerRunner:
    logging.getLogger("aiohttp.server").addFilter(_Strangers())
    server = web.Server(
        proxy.handle,
        handler_cancellation=True,  # who hangs up does not keep a replica busy
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=_CLIENT_UNUSED_S,
        lingering_time=_LINGER_S,
        max_line_size=settings.head_most_bytes,
        max_field_size=settings.head_most_bytes,
    )
    return web.ServerRunner(server, shutdown_timeout=settings.grace_s)


def _health(desks: Desks) -> web.Response:
    """Well from the first table on: before, it could only turn requests away."""
    if desks.told:
        return web.json_response({"status": "ok"})
    answer = {"status": "waits for its first table"}
    return web.json_response(answer, status=HTTPStatus.SERVICE_UNAVAILABLE)
