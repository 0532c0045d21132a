"""What the routers of a planet on this machine need: a port and a credential each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict

from singularity.primitives.errors import Unavailable

from .servers import free_port, port_is_free

_HOST: Final = "127.0.0.1"
_ANSWER_S: Final = 20.0
_GRACE_S: Final = "3"  # of requests that run when the planet is stopped


class RouterPlace(BaseModel):
    """Where one router listens, and what it shows the control plane. Kept from start to start."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    def environment(self, region: str, api_url: str, data: Path) -> dict[str, str]:
        return {
            "SINGULARITY_API_URL": api_url,
            "SINGULARITY_ROUTER": f"router-{region}",
            "SINGULARITY_ROUTER_TOKEN": self.token,
            "SINGULARITY_REGION": region,
            "SINGULARITY_DATA": str(data),
            "SINGULARITY_HOST": _HOST,
            "SINGULARITY_PORT": str(self.port),
            "SINGULARITY_GRACE_S": _GRACE_S,
        }

    def ready(self) -> bool:
        """Whether it answers, and knows which services there are."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=_ANSWER_S).is_success
        except httpx.TransportError:
            return False


class Door:
    """The control plane, asked for credentials."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def place(self, region: str, known: RouterPlace | None) -> RouterPlace:
        """As before where that still serves."""
        port = known.port if known and port_is_free(known.port) else free_port()
        valid = known is not None and self._is_valid(region, known.token)
        return RouterPlace(port=port, token=known.token if known and valid else self._token(region))

    def _is_valid(self, region: str, token: str) -> bool:
        path, headers = f"/v1/routers/{region}/table", {"Authorization": f"Bearer {token}"}
        return self._http.get(path, params={"after": 0}, headers=headers).is_success

    def _token(self, region: str) -> str:
        asked = {"role": "router", "name": f"router-{region}"}
        answer = self._http.post("/v1/tokens", json=asked)
        if not answer.is_success:
            raise Unavailable(f"no credential for the router of {region}: {answer.text[:200]}")
        return str(answer.json()["token"])


@contextmanager
def admit(api_url: str, admin_token: str) -> Iterator[Door]:
    headers = {"Authorization": f"Bearer {admin_token}"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=_ANSWER_S) as http:
        yield Door(http)
