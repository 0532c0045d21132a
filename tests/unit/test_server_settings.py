"""Settings are parsed once, and those that would let a job run twice are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from singularity.api.settings import Settings


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


@pytest.mark.parametrize(("heartbeat_s", "lease_s"), [(2.0, 30.0), (2.0, 40.0), (5.0, 5.0)])
def test_a_node_gives_up_before_its_jobs_are_given_away(heartbeat_s: float, lease_s: float) -> None:
    with pytest.raises(ValidationError, match="a job could run twice"):
        _settings(heartbeat_every_s=heartbeat_s, lease_s=lease_s)


def test_the_server_answers_to_its_own_names() -> None:
    found = _settings(host="10.0.0.5", hosts="api.example, Other.example")
    assert {"localhost", "10.0.0.5", "api.example", "other.example"} <= found.allowed_hosts
