"""The agent's line to the control plane: HTTP, its own credential, quick to give up."""

from __future__ import annotations

from typing import Any, Final

import httpx
from pydantic import TypeAdapter

from singularity.primitives.errors import Rejected, Unauthenticated, Unavailable
from singularity.primitives.messages import Admission, Heartbeat, Pulse, Register, Report, Sealed
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

_LETTERS = TypeAdapter(tuple[Sealed, ...])
_FORGET = TypeAdapter(tuple[tuple[JobId, int], ...])
_TIMEOUT: Final = httpx.Timeout(5.0, connect=2.0)


class ControlPlane:
    """Every call raises Unavailable when nobody answers (try again) and Rejected when the answer
    is no (trying the same again is useless). Safe to share between threads."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT)
        self.use(token)

    def use(self, token: str) -> None:
        self._http.headers["Authorization"] = f"Bearer {token}"

    def register(self, register: Register) -> Admission:
        answer = self._call("POST", "/v1/agent/register", register.model_dump(mode="json"))
        return Admission.model_validate(answer)

    def heartbeat(self, heartbeat: Heartbeat) -> Pulse:
        answer = self._call("POST", "/v1/agent/heartbeat", heartbeat.model_dump(mode="json"))
        return Pulse.model_validate(answer)

    def report(self, reports: list[Report]) -> tuple[tuple[JobId, int], ...]:
        """Tell at once; returns what need not be repeated."""
        body = {"reports": [r.model_dump(mode="json") for r in reports]}
        return _FORGET.validate_python(self._call("POST", "/v1/agent/report", body)["forget"])

    def letters(self, epoch: int, after: int) -> tuple[Sealed, ...]:
        """What was written to this node after `after`: the way around a broker that is down."""
        path = f"/v1/agent/letters?epoch={epoch}&after={after}"
        return _LETTERS.validate_python(self._call("GET", path)["letters"])

    def peer(self, node: NodeId) -> str:
        """Where the agent of `node` listens for gang messages, as host:port."""
        return str(self._call("GET", f"/v1/agent/peers/{node}")["address"])

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"the control plane does not answer: {error}") from error
        if response.status_code >= 500:
            raise Unavailable(f"the control plane answered {response.status_code}")
        if response.status_code == 401:
            raise Unauthenticated(response.text)
        if response.status_code >= 400:
            raise Rejected(response.text)
        answer: dict[str, Any] = response.json()
        return answer
