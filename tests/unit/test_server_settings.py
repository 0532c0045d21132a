"""Settings are parsed once, and those that would let a job run twice are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from singularity.api.settings import Settings
from singularity.primitives.telemetry import misconfigured


def _settings(**changes: object) -> Settings:
    least: dict[str, object] = {
        "database_url": "postgresql://u:p@h/d",
        "data": Path("d"),
        "volume": Path("v"),
    }
    return Settings.model_validate({**least, **changes})


def test_the_driver_is_added_for_sqlalchemy_only() -> None:
    found = _settings()
    assert found.database_url == "postgresql://u:p@h/d"
    assert found.sqlalchemy_url == "postgresql+psycopg://u:p@h/d"


def test_policy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGULARITY_POLICY_NODE_LOST_AFTER_S", "20")
    assert _settings().policy().node_lost_after_s == 20.0
    monkeypatch.setenv("SINGULARITY_POLICY_NODE_LOST_AFTER_S", "soon")
    with pytest.raises(Exception, match="node_lost_after_s"):
        _settings()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"database_url": "mysql://u:secret@h/d"}, "database_url: write postgresql://"),
        ({"database_url": "banana"}, "database_url: write postgresql://"),
        ({"broker_url": "amqp//u:secret@h"}, "broker_url: write redis://"),
        ({"store": "ftp://u:secret@h/b"}, "is no store"),
    ],
)
def test_addresses_of_nothing_are_refused_at_once(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _settings(**wrong)
    assert why in misconfigured(caught.value)


def started(module: str, *argv: str, **env: str) -> tuple[int, str]:
    bare = {name: value for name, value in os.environ.items() if "SINGULARITY" not in name}
    found = subprocess.run(
        [sys.executable, "-m", module, *argv],
        env={**bare, **{f"SINGULARITY_{k}": v for k, v in env.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return found.returncode, found.stderr


_LEAST = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/d", "DATA": "/tmp/d", "VOLUME": "/tmp/v"}


@pytest.mark.parametrize(
    ("module", "argv", "env", "why"),
    [
        ("singularity.agent", (), {}, "SINGULARITY_NODE: Field required"),
        ("singularity.router", (), {}, "SINGULARITY_REGION: Field required"),
        ("singularity.api", ("serve",), {}, "SINGULARITY_DATABASE_URL: Field required"),
        ("singularity.api", ("serve",), {**_LEAST, "POLICY_FOO": "1"}, "there is no policy 'foo'"),
        ("singularity.api", ("serve",), {**_LEAST, "LEASE_S": "99"}, "settings: need heartbeat"),
        ("singularity.api", ("migrate",), _LEAST, "the database does not answer"),
    ],
)
def test_what_cannot_start_says_why_in_a_line(
    module: str, argv: tuple[str, ...], env: dict[str, str], why: str
) -> None:
    status, said = started(module, *argv, **env)
    assert status in (1, 2) and why in said and "Traceback" not in said


@pytest.mark.parametrize(("heartbeat_s", "lease_s"), [(2.0, 30.0), (2.0, 40.0), (5.0, 5.0)])
def test_a_node_gives_up_before_its_jobs_are_given_away(heartbeat_s: float, lease_s: float) -> None:
    with pytest.raises(ValidationError, match="a job could run twice"):
        _settings(heartbeat_every_s=heartbeat_s, lease_s=lease_s)


def test_the_server_answers_to_its_own_names() -> None:
    found = _settings(host="10.0.0.5", hosts="api.example, Other.example")
    assert {"localhost", "10.0.0.5", "api.example", "other.example"} <= found.allowed_hosts
