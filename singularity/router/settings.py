"""The router's settings, parsed once from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RouterSettings(BaseSettings):
    """`router` names it among those of its region. `data` is where it keeps the last table, so that
    it can begin without the control plane.

    `head_most_bytes` is the longest header, and the longest first line, that it takes;
    `body_most_bytes` the longest body of a request. `connect_s` is how long a replica may take to
    accept a connection, `idle_s` how long it may be silent in the middle of an answer, and how long
    a client may take nothing of one, and `grace_s` how long requests may go on when the router
    itself is told to stop.
    """

    model_config = SettingsConfigDict(env_prefix="SINGULARITY_")

    api_url: str
    router_token: str
    router: str
    region: str
    data: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8480, ge=0, le=65535)
    head_most_bytes: int = Field(default=16 * 1024, ge=1024)
    body_most_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    connect_s: float = Field(default=2.0, gt=0)
    idle_s: float = Field(default=300.0, gt=0)
    grace_s: float = Field(default=30.0, ge=0)
