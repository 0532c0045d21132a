"""A cluster that is played, and extenders at work in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster as Server
from lightkube.config.models import Context

from singularity.gpushare.app import create_app
from singularity.gpushare.cluster import Cluster as Door
from singularity.primitives.clock import SystemClock

from .kubernetes import Cluster, Served, api

LIMIT_S = 30.0


def until(law: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not law():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Site:
    """Played by the stand-in."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._api = Served(api(self.cluster))
        self._extenders: list[Served] = []

    @property
    def api_url(self) -> str:
        return self._api.url

    def config(self) -> SingleConfig:
        return SingleConfig("site", Context(cluster="site"), Server(server=self.api_url))

    @property
    def url(self) -> str:
        """Of the first extender."""
        return self._extenders[0].url

    def start(self) -> None:
        self.another()

    def another(self) -> str:
        """One more extender, that knows the cluster; its address."""
        found = Served(create_app(Door(self.config()), SystemClock(), 1 << 20))
        self._extenders.append(found)
        until(lambda: httpx.get(f"{found.url}/readyz").status_code == 200)
        return found.url

    def restart(self) -> None:
        self._extenders.pop().close()
        self.start()

    def close(self) -> None:
        for served in (*self._extenders, self._api):
            served.close()

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=LIMIT_S, **body)
