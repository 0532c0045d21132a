"""The extender's settings, parsed once from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class PluginSettings(BaseSettings):
    """Of the device plugin on a node. `gpushare_node` is its name in the cluster,
    `gpushare_plugins` where kubelet looks for plugins, `gpushare_root` where containers'
    directories are, the same path outside of this container. A pod's limit counts in
    `gpushare_unit`. Without `gpushare_limit` containers may take what they like of their device,
    as with the original."""

    model_config = SettingsConfigDict(env_prefix="SINGULARITY_")

    gpushare_node: str = Field(min_length=1)
    gpushare_plugins: Path = Path("/var/lib/kubelet/device-plugins")
    gpushare_root: Path = Path("/var/lib/singularity-gpushare")
    gpushare_unit: Literal["GiB", "MiB"] = "GiB"
    gpushare_limit: bool = True

    @property
    def unit_bytes(self) -> int:
        return 1 << (30 if self.gpushare_unit == "GiB" else 20)


class ExtenderSettings(BaseSettings):
    """`gpushare_tls_cert` and `gpushare_tls_key` are files of PEM; without them it is HTTP, as the
    original is. `gpushare_body_most_bytes` is the longest body: many nodes, as objects, are long.
    """

    model_config = SettingsConfigDict(env_prefix="SINGULARITY_")

    gpushare_host: str = "0.0.0.0"
    gpushare_port: int = Field(default=39999, ge=0, le=65535)
    gpushare_tls_cert: Path | None = None
    gpushare_tls_key: Path | None = None
    gpushare_body_most_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)

    @model_validator(mode="after")
    def _both_or_none(self) -> ExtenderSettings:
        if (self.gpushare_tls_cert is None) != (self.gpushare_tls_key is None):
            raise ValueError(
                "SINGULARITY_GPUSHARE_TLS_CERT and _TLS_KEY belong together: set both, or none"
            )
        return self
