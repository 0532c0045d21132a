"""The job document: what a user writes, checked, and turned into the JobSpec that never changes.

Keys are strict. What this release does not run is refused by name instead of being ignored.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.launcher import unwrap
from singularity.primitives.model import JobId, JobSpec, Kind, Tier
from singularity.primitives.sharing import WHOLE_MILLI, DeviceShare, Precedence
from singularity.primitives.topology import Near, Topology

from .documents import Document, Duration, one_or_many
from .keeping import Checkpointing
from .problems import invalid

_BYTES: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4} | {
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}
_DEVICES = re.compile(r"(?:(?P<kind>[A-Za-z0-9][A-Za-z0-9_.-]{0,62}):)?(?P<count>[0-9]{1,6})")
_RANKS_MOST: Final = 100_000


def size_bytes(text: object) -> int:
    """'8GiB', '500MB', or a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B|)", str(text))
    if found is None:
        raise ValueError(f"{text!r} is no size; write for example 512MiB or 8GiB")
    size = float(found[1]) * _BYTES[found[2]]
    if math.isinf(size):
        raise ValueError("that is more than anything")
    return int(size)


def _bandwidth(text: object) -> float:
    """'200MB/s', or a number of bytes a second."""
    said = str(text)
    if not said.endswith("/s") and not said.isdecimal():
        raise ValueError(f"{said!r} is no bandwidth; write for example 200MB/s")
    return float(size_bytes(said.removesuffix("/s")))


def percent_milli(text: object) -> int:
    """'50%' or '12.5%', in thousandths."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d)?) ?%", str(text))
    if found is None or not 10 <= (milli := round(float(found[1]) * 10)) <= WHOLE_MILLI:
        raise ValueError(f"{text!r} is no part of a device; write a percentage from 1% to 100%")
    return milli


def _words(run: object) -> object:
    """A command line as a shell would split it; no shell ever sees it."""
    if not isinstance(run, str):
        return run
    try:
        return shlex.split(run)
    except ValueError as error:
        raise ValueError(f"the command line cannot be split: {error}") from None


def _as_text(env: object) -> object:
    """YAML reads 1 and true as what they look like; an environment holds text."""
    if not isinstance(env, Mapping):
        return env
    flags = {True: "true", False: "false"}
    return {
        name: flags[value] if isinstance(value, bool) else str(value)
        for name, value in env.items()
        if isinstance(value, str | int | float)
    } | {name: value for name, value in env.items() if not isinstance(value, str | int | float)}


_NO_NUL = r"^[^\x00]*$"
Size = Annotated[
    int, BeforeValidator(size_bytes, json_schema_input_type=str | int), Field(ge=1, lt=2**50)
]
Bandwidth = Annotated[
    float, BeforeValidator(_bandwidth, json_schema_input_type=str | int), Field(ge=1, lt=2**50)
]
Percent = Annotated[int, BeforeValidator(percent_milli, json_schema_input_type=str)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
Glob = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*?\[\]!._-]{1,64}$")]
Word = Annotated[str, StringConstraints(pattern=_NO_NUL, max_length=65536)]
Command = Annotated[
    tuple[Word, ...],
    BeforeValidator(_words, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=4096),
]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$")]
_ONE_OR_MANY: Final = BeforeValidator(one_or_many, json_schema_input_type=str | list[str])
Globs = Annotated[tuple[Glob, ...], _ONE_OR_MANY, Field(max_length=100)]
Names = Annotated[tuple[Name, ...], _ONE_OR_MANY, Field(max_length=1000)]
_TO_TEXT: Final = BeforeValidator(
    _as_text, json_schema_input_type=dict[str, str | int | float | bool]
)
Environment = Annotated[dict[EnvName, Word], _TO_TEXT]
Workdir = Annotated[str, StringConstraints(pattern=r"^(/[^\x00]*)?$", max_length=4096)]
Count = Annotated[int, Field(ge=1, le=_RANKS_MOST)]


def gang_of(devices: str | int) -> tuple[str, int]:
    """Kind and number of devices. Raises ValueError when `devices` says neither."""
    found = _DEVICES.fullmatch(str(devices))
    if found is None or not 1 <= int(found["count"]) <= _RANKS_MOST:
        raise ValueError(f"devices: {devices!r} is not understood; write cpu:4 or H100:16")
    return found["kind"] or "cpu", int(found["count"])


class Elastic(Document):
    min: Count
    max: Count

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class Place(Document):
    """`data` are regions where what the job reads lies: it goes there before elsewhere."""

    regions: Globs = ()
    avoid: Globs = Field((), alias="not")
    data: Globs = ()
    same_node: bool = False
    same_rack: bool = False
    prefer: Near | None = None
    spread: Near | None = None
    apart: Name | Literal[""] = ""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.spread and (self.prefer or self.same_node):
            raise ValueError("spread: a gang cannot be kept together and spread; leave out one")
        if self.spread is Near.RACK and self.same_rack:
            raise ValueError("spread: a gang in one rack cannot be spread over racks")
        return self

    def topology(self) -> Topology:
        return Topology(self.same_rack, self.prefer, self.spread, self.apart)


class Retry(Document):
    infra: Annotated[int, Field(ge=0, le=1000)] = 10
    user: Annotated[int, Field(ge=0, le=1000)] = 0
    on_exit_codes: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()


class Limits(Document):
    """`hang_after`: a rank that makes no step for so long is taken for hung, and the job goes back
    to its last checkpoint. A single process that takes no optimizer steps must not ask for it."""

    max_duration: Duration | None = None
    hang_after: Duration | None = None
    memory: Size | None = None


class Sharing(Document):
    """What each rank has of its device: so much of its `memory`, and of its `compute`. Ranks of
    `class` rt go before all others of the device, and never over their part; those of class be have
    at least theirs, and what the others leave."""

    memory: Size
    compute: Percent
    precedence: Precedence = Field(Precedence.BEST_EFFORT, alias="class")

    def share(self) -> DeviceShare:
        return DeviceShare(self.compute, self.memory, self.precedence)


class JobDocument(Document):
    """`devices` is how many of which kind, as cpu:4; `ranks`, one a device unless said, is the
    number of processes and never changes. With `share`, each has only that of its device."""

    name: Name
    run: Command
    kind: Kind = Kind.TRAIN
    project: Name = "default"
    tier: Literal["premium", "standard", "basic"] = "standard"
    env: Environment = Field(default_factory=dict)
    workdir: Workdir = ""
    devices: str | Annotated[int, Field(strict=True)] = "cpu:1"
    ranks: Count | None = None
    elastic: Elastic | None = None
    place: Place = Place()
    checkpoint: Checkpointing = Checkpointing()
    retry: Retry = Retry()
    limits: Limits = Limits()
    share: Sharing | None = None
    after: Names = ()
    array: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_runs(cls, data: object) -> object:
        if isinstance(data, Mapping):
            if data.get("kind") == "serve":
                raise ValueError("kind: serve is a service and no job; use POST /v1/services")
            if data.get("kind") == "verify":
                raise ValueError(
                    "kind: verify is not submitted; use POST /v1/jobs/JOB/verifications"
                )
            if "memory" in data:
                raise ValueError(
                    f"memory: a share of a device is written share: {{memory: {data['memory']}, "
                    "compute: 50%}"
                )
        return data

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        device, count = gang_of(self.devices)
        ranks = self.ranks or count
        if count > ranks and count % ranks:
            raise ValueError(
                f"{count} devices cannot be divided among {ranks} ranks; "
                f"take at most {ranks}, or a multiple of it"
            )
        if self.elastic and not self.elastic.min <= count <= self.elastic.max:
            raise ValueError(
                f"devices {device}:{count} is outside elastic {self.elastic.min} to "
                f"{self.elastic.max}"
            )
        self._shares_one_each(count, ranks)
        if self.array is not None and self.kind is not Kind.BATCH:
            raise ValueError("array is for kind: batch")
        if self.array is not None and self.checkpoint.path:
            raise ValueError("array: its jobs would all write the files of checkpoint.path")
        self.checkpoint.cooperation(self.workdir)
        try:
            unwrap(self.run, ranks, self.env)
        except InvalidSpec as error:
            raise ValueError(f"run: {error.detail}") from None
        if reserved := sorted(n for n in self.env if n.startswith("SINGULARITY_")):
            raise ValueError(f"env: {reserved[0]} is ours; choose another name")
        return self

    def _shares_one_each(self, count: int, ranks: int) -> None:
        """Raises ValueError."""
        if self.share is None:
            return
        if self.elastic:
            raise ValueError("share: a job with shares of devices is not elastic; leave one out")
        if count != ranks:
            raise ValueError(
                f"share: each rank has one of a device of its own; write devices: {ranks} for "
                f"{ranks} ranks"
            )
        if self.limits.memory is not None:
            raise ValueError("limits.memory: with a share, share.memory is the limit of a rank")

    def spec(self, name: str, after: Sequence[JobId]) -> JobSpec:
        """The spec as the control plane keeps it; `after` are the jobs that self.after names."""
        device, count = gang_of(self.devices)
        return JobSpec(
            name=name,
            run=self.run,
            ranks=self.ranks or count,
            device=device,
            devices=count,
            devices_min=self.elastic.min if self.elastic else count,
            devices_max=self.elastic.max if self.elastic else count,
            project=self.project,
            kind=self.kind,
            tier=Tier[self.tier.upper()],
            env=tuple(sorted(self.env.items())),
            workdir=self.workdir,
            regions=self.place.regions,
            avoid=self.place.avoid,
            same_node=self.place.same_node,
            topology=self.place.topology(),
            data=self.place.data,
            checkpoint_every_s=self.checkpoint.every,
            checkpoint_keep=self.checkpoint.keep,
            retry_infra=self.retry.infra,
            retry_user=self.retry.user,
            retry_exit_codes=self.retry.on_exit_codes,
            max_duration_s=self.limits.max_duration,
            hang_after_s=self.limits.hang_after,
            memory_bytes=self.limits.memory,
            after=tuple(after),
            engines=self.checkpoint.chain,
            cooperation=self.checkpoint.cooperation(self.workdir),
            share=self.share.share() if self.share else None,
        )


def read_job(body: object) -> JobDocument:
    """Check what was sent. Raises InvalidSpec naming every wrong field."""
    try:
        return JobDocument.model_validate(body)
    except ValidationError as error:
        found: Sequence[Mapping[str, Any]] = error.errors()
        raise invalid(found) from None


def schema() -> dict[str, Any]:
    """JSON Schema of the job document as it may be written."""
    found = JobDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
