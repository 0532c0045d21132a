"""A trace as people write it: machines, costs and jobs in YAML. See examples/simulation.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import Tier

from .traces import Arrival, Machines, Trace

Count = Annotated[int, Field(ge=1)]
Hours = Annotated[float, Field(gt=0)]
Since = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FleetPart(_Strict):
    nodes: Count
    devices: Count = 8
    device: str = "gpu"
    cluster: str = "c0"
    region: str = "r0"


class JobLine(_Strict):
    """`count` jobs, `every_hours` after each other, of `hours` on all their devices."""

    name: str
    hours: Hours
    devices: Count = 1
    devices_min: Count | None = None
    at_hours: Since = 0.0
    count: Count = 1
    every_hours: Since = 0.0
    device: str = ""
    tier: Tier = Tier.BASIC
    project: str = "default"
    scaling: Annotated[float, Field(gt=0, le=1)] = 1.0

    @field_validator("tier", mode="before")
    @classmethod
    def _by_name(cls, text: object) -> object:
        if isinstance(text, str) and text.upper() in Tier.__members__:
            return Tier[text.upper()]
        raise ValueError(f"{text!r} is no tier; write premium, standard or basic")


class Costs(_Strict):
    start_s: Since | None = None
    restart_s: Since | None = None
    cut_s: Since | None = None
    resize_s: Since | None = None


class Simulation(_Strict):
    fleet: Annotated[tuple[FleetPart, ...], Field(min_length=1)]
    jobs: tuple[JobLine, ...]
    costs: Costs = Costs()


def read_own(path: Path) -> Trace:
    """Raises InvalidSpec that names the place in the file."""
    try:
        found = Simulation.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidSpec(f"{path}: {where}: {first['msg']}") from None
    jobs = [job for line in found.jobs for job in _jobs(line)]
    return Trace(
        path.stem,
        tuple(jobs),
        tuple(Machines(**part.model_dump()) for part in found.fleet),
        costs=found.costs.model_dump(exclude_none=True),
    )


def _jobs(line: JobLine) -> list[Arrival]:
    least = min(line.devices_min or line.devices, line.devices)
    return [
        Arrival(
            name=line.name if line.count == 1 else f"{line.name}-{number}",
            at_s=3600.0 * (line.at_hours + number * line.every_hours),
            work_s=3600.0 * line.hours,
            devices=line.devices,
            devices_min=least,
            device=line.device,
            tier=line.tier,
            project=line.project,
            scaling=line.scaling,
        )
        for number in range(line.count)
    ]
