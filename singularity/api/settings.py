"""The server's settings, parsed once from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from singularity.primitives.model import Sealing
from singularity.primitives.transport import SigningKey
from singularity.scheduler.policy import Policy
from singularity.store.blobs import Blobs
from singularity.store.places import open_blobs

_POLICY = "SINGULARITY_POLICY_"
_DRIVER = "postgresql+psycopg://"
_POSTGRES = ("postgresql://", "postgres://")
_BROKERS = ("redis://", "rediss://", "redis+socket://", "memory://")


class Settings(BaseSettings):
    """`volume` is the directory that all nodes share. `store` is where they keep checkpoints, if
    not there: file:// or s3://bucket/prefix. `sealing` says what protects checkpoints from others
    that can reach the store; those made under another setting cannot be read. `lease_s`
    is how long a node may run jobs unheard; it must end before the control plane gives the node's
    jobs to others.

    `hosts` are names under which browsers may reach this server, beside its address; a request
    for any other name is refused, so that no web page can reach us by rebinding its own name.
    """

    model_config = SettingsConfigDict(env_prefix="SINGULARITY_")

    database_url: str
    broker_url: str = "redis://127.0.0.1:6379/0"
    broker_users: bool = True  # each node its own, where the broker lets us make them
    data: Path
    volume: Path
    store: str = ""
    sealing: Sealing = Sealing.ENCRYPTED
    tidy_every_s: float = Field(default=10.0, gt=0)  # between looks for checkpoints nobody needs
    chunk_least_age_s: float = Field(default=300.0, ge=0)  # of what a sweep may take
    host: str = "127.0.0.1"
    port: int = Field(default=8470, ge=0, le=65535)
    hosts: str = ""  # comma-separated; "*" for any
    join_token: str = ""
    admin_token: str = ""
    heartbeat_every_s: float = Field(default=2.0, gt=0)
    lease_s: float = Field(default=12.0, gt=0)

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        if not self.database_url.startswith(_POSTGRES):
            raise ValueError("database_url: write postgresql://USER:PASSWORD@HOST/DATABASE")
        if not self.broker_url.startswith(_BROKERS):
            raise ValueError("broker_url: write redis://HOST:PORT/0")
        if "://" in self.store:
            try:
                open_blobs(self.store)
            except ValueError as error:
                raise ValueError(f"store: {error}") from None
        return self

    @model_validator(mode="after")
    def _lease_ends_first(self) -> Self:
        lost_s = self.policy().node_lost_after_s
        if not self.heartbeat_every_s < self.lease_s < lost_s:
            raise ValueError(
                f"need heartbeat_every_s ({self.heartbeat_every_s}) < lease_s ({self.lease_s}) < "
                f"node_lost_after_s ({lost_s}): else a job could run twice"
            )
        return self

    @property
    def sqlalchemy_url(self) -> str:
        """`database_url` is what libpq takes; SQLAlchemy wants the driver in the scheme."""
        for scheme in _POSTGRES:
            if self.database_url.startswith(scheme):
                return _DRIVER + self.database_url.removeprefix(scheme)
        return self.database_url

    def signing_key(self) -> SigningKey:
        return SigningKey.load_or_create(self.data / "signing.key", self.sealing)

    def blobs(self) -> Blobs:
        """Where checkpoints are."""
        return open_blobs(self.store or self.volume)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        extra = {h.strip().lower() for h in self.hosts.split(",") if h.strip()}
        return frozenset({"127.0.0.1", "localhost", "[::1]", self.host.lower()} | extra)

    def policy(self) -> Policy:
        """The scheduler's policy, with SINGULARITY_POLICY_<FIELD> laid over it."""
        found = {
            name.removeprefix(_POLICY).lower(): text
            for name, text in os.environ.items()
            if name.startswith(_POLICY)
        }
        return Policy().with_overrides(found)
