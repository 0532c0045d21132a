"""A server in a thread over a real database, and a node that speaks as an agent does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from singularity.api.app import create_app
from singularity.api.loops import round_of_scheduling
from singularity.api.services import Services
from singularity.api.settings import Settings
from singularity.primitives.messages import Admission, Command, Report, Sealed
from singularity.primitives.model import Held, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import VerifyKey

ADMIN = "sgl_first.0123456789abcdef0123"
JOIN = "join-me-0123456789"
Json = dict[str, Any]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Api:
    """`call` answers (status, body); `schedule` is one round of the scheduler."""

    def __init__(self, http: httpx.Client, serving: Services) -> None:
        self.http, self.serving = http, serving

    def call(
        self, method: str, path: str, body: object = None, token: str = ADMIN, **headers: str
    ) -> tuple[int, Json]:
        sent = {**bearer(token), **{k.replace("_", "-"): v for k, v in headers.items()}}
        response = self.http.request(method, path, json=body, headers=sent)
        return response.status_code, response.json() if response.content else {}

    def ok(
        self, method: str, path: str, body: object = None, token: str = ADMIN, **headers: str
    ) -> Json:
        status, answer = self.call(method, path, body, token, **headers)
        assert status < 300, (status, answer)
        return answer

    def schedule(self) -> int:
        policy = self.serving.settings.policy()
        return round_of_scheduling(self.serving.ledger, policy, self.serving.clock).done

    def token(self, role: str, project: str | None = None) -> str:
        body = {"role": role, "name": f"a {role}", "project": project}
        return str(self.ok("POST", "/v1/tokens", body)["token"])


@contextmanager
def open_api(database_url: str, data: Path) -> Iterator[Api]:
    settings = Settings(
        database_url=database_url,
        data=data,
        volume=data / "volume",
        join_token=JOIN,
        admin_token=ADMIN,
    )
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    with socket.socket() as listener:
        listener.bind((settings.host, 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        serving: Services = app.state.services
        try:
            port = listener.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as http:
                yield Api(http, serving)
        finally:
            serving.stop.set()
            server.should_exit = True
            thread.join()


class Agent:
    """One node: registers, pulls its letters, reports."""

    def __init__(
        self, api: Api, node: str, region: str = "us-east", devices: int = 4, **more: Any
    ) -> None:
        self.api, self.node, self.seq = api, NodeId(node), 0
        self.register = {
            "node": node,
            "region": region,
            "cluster": f"{region}-a",
            "device": "cpu",
            "devices": devices,
            "address": f"{node}:7000",
            **more,
        }
        answer = api.ok("POST", "/v1/agent/register", self.register, token=JOIN)
        self.admission = Admission.model_validate(answer)
        self.token = self.admission.token or ""
        self.key = VerifyKey(self.admission.verify_key)

    def letters(self) -> list[Command]:
        """Commands that are new since the last call."""
        path = f"/v1/agent/letters?epoch={self.admission.epoch}&after={self.seq}"
        found = self.api.ok("GET", path, token=self.token)["letters"]
        envelopes = [self.key.open(Sealed.model_validate(x), self.node) for x in found]
        self.seq = max([self.seq, *(e.seq for e in envelopes)])
        return [e.command for e in envelopes]

    def beat(self, *reports: Report) -> Json:
        body = {
            "node": self.node,
            "epoch": self.admission.epoch,
            "acknowledged": self.seq,
            "reports": [r.model_dump(mode="json") for r in reports],
        }
        return self.api.ok("POST", "/v1/agent/heartbeat", body, token=self.token)

    def obey(self, step: int = 0) -> list[str]:
        """Do what the letters say, and report it done; the verbs."""
        verbs = []
        for command in self.letters():
            verbs.append(command.verb)
            known = {"job": command.job, "node": self.node, "incarnation": command.incarnation}
            if command.verb == "start":
                report = Report(**known, phase="running", step=step, seconds={"restore": 0.5})
            elif command.verb == "cut":
                held = Held("token", "machine", "/d", command.stay) if command.handover else None
                image = ShardImage(self.node, (0,), "d" * 64, step, 100, 10, held=held)
                phase = "running" if command.keep_running else "dumped"
                report = Report(**known, phase=phase, cut=command.cut, image=image, step=step)
            elif command.verb == "reslot":
                taken = {"resize": command.resize, "devices": command.devices}
                report = Report(**known, phase="running", step=step, **taken)
            else:
                report = Report(**known, phase="stopped")
            self.beat(report)
        return verbs


SPEC = {"name": "digits", "run": "python train.py", "devices": "cpu:1"}


def turn(api: Api, fleet: list[Agent], step: int = 0) -> list[str]:
    """One round of the scheduler, and all that follows from it."""
    api.schedule()
    return [verb for agent in fleet for verb in agent.obey(step)]


def run(api: Api, fleet: list[Agent], **changes: Any) -> Json:
    """A job that runs."""
    job = api.ok("POST", "/v1/jobs", {**SPEC, **changes})
    turn(api, fleet)
    found: Json = api.ok("GET", f"/v1/jobs/{job['id']}")
    assert found["state"] == "running"
    return found
