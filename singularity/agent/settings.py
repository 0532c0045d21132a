"""The agent's settings, parsed once from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from singularity.primitives.nodes import NodeId


class AgentSettings(BaseSettings):
    """`run_dir` must have the same path on every node: checkpoints name files in it.

    `volume` is the directory that all nodes share. `store` is where checkpoints are kept: a
    directory, file:// or s3://bucket/prefix; by default the volume.
    `bridge` and `subnet` give ranks addresses of their own; without them ranks share the node's
    network.
    """

    model_config = SettingsConfigDict(env_prefix="SINGULARITY_")

    api_url: str
    join_token: str = ""
    node: NodeId
    region: str
    cluster: str
    rack: str = ""
    device: str = "cpu"
    devices: int = Field(ge=1)
    node_dir: Path
    run_dir: Path = Path("/run/singularity")
    volume: Path
    store: str = ""
    criu: str = ""
    bridge: str = ""
    subnet: str = ""
    node_index: int = Field(default=0, ge=0, le=254)
    splice: bool = (
        False  # equal pages of ranks are kept once; only among jobs that trust each other
    )
    share: bool = False  # GPUs: given out in shares, and none as a whole
    # What best-effort ranks run leaves a shared GPU block by block, when real-time work comes, and
    # each block runs once all the same. Of kernels that exist as PTX; measured on no GPU yet.
    share_yield: bool = False
    host: str = "127.0.0.1"  # where peers reach this agent, and routers the replicas
    log_bytes: int = Field(default=64 << 20, ge=1 << 20)  # of what a rank prints, most
    scratch: Path | None = None  # for images on their way; default: memory, or node_dir/images
    cut_deadline_s: float = 60.0  # then a cut is given up and the job goes on
    restore_deadline_s: float = 120.0
    reconnect_deadline_s: float = 120.0
    first_step_s: float = 900.0  # of a life, where limits.hang_after is shorter: loading, compiling
    ready_s: float = 300.0  # of a replica, until it first answers: loading what it serves
    silent_s: float = 60.0  # between answers, where limits.hang_after is not given: it may be busy
    reslot_deadline_s: float = 60.0  # then ranks that have not come to a boundary keep their slots
