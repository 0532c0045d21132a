"""The service document: what its owner writes, checked, and turned into the Service that is kept.

Keys are strict, as those of jobs are; what is a job's and not a service's is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.launcher import unwrap
from singularity.primitives.model import Engine, JobSpec, Kind, Tier
from singularity.primitives.serving import ServiceId, Serving
from singularity.scheduler.services import Canary, Measure, Promise, Service, Slo, Target

from .documents import Document, Duration
from .problems import invalid
from .schemas import Command, Environment, Name, Place, Sharing, Size, Workdir, gang_of

REPLICAS_MOST: Final = 10_000
_FOR_EVER: Final = (
    1_000_000  # a replica is tried again, less and less often, as long as it is wanted
)
_NAME_MOST: Final = 48  # its replicas are called NAME-REVISION-NUMBER
_JOBS_ONLY: Final = {
    "array": "a service has replicas; write replicas: {min, max}",
    "elastic": "a replica has its devices; how many replicas there are is said by replicas",
    "ranks": "a replica is one process; a program that needs more starts them itself",
    "after": "services wait for nobody",
    "checkpoint": "nothing of a replica is kept",
    "retry": "replicas are tried again as long as they are wanted",
    "limits": "services have no max_duration; memory stands beside devices",
    "port": "the node chooses it: PORT in the environment, or the word $PORT in run",
}
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=REPLICAS_MOST)]


class Replicas(Document):
    min: Count = 1
    max: Count = 1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class Carries(Document):
    """What one replica is meant to carry: requests at a time, or requests a second."""

    concurrency: Positive | None = None
    rps: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.concurrency is None) == (self.rps is None):
            raise ValueError("say either concurrency or rps")
        return self

    def target(self) -> Target:
        if self.concurrency is not None:
            return Target(Measure.CONCURRENCY, self.concurrency)
        assert self.rps is not None
        return Target(Measure.RPS, self.rps)


class Promised(Document):
    """`attainment` of the requests, 0.99 unless said, have a wait or a latency within that."""

    wait_p99: Duration | None = None
    latency_p99: Duration | None = None
    attainment: Share = 0.99

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.wait_p99 is None) == (self.latency_p99 is None):
            raise ValueError("say either wait_p99 or latency_p99")
        return self

    def slo(self) -> Slo:
        if self.wait_p99 is not None:
            return Slo(Promise.WAIT, self.wait_p99, self.attainment)
        assert self.latency_p99 is not None
        return Slo(Promise.LATENCY, self.latency_p99, self.attainment)


class Queue(Document):
    """Requests that wait for a replica: so many `most`. Each waits `timeout` at most until its
    answer begins, in the queue and with the replica together."""

    most: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    timeout: Annotated[Duration, Field(le=3600.0)] = 30.0


class Trying(Document):
    """A new revision gets `share` of the requests until it has served so many as promised; it is
    taken back when it breaks the promise, when it fails, or when it is not done `within`."""

    share: Share = 0.1
    requests: Annotated[int, Field(ge=1, le=100_000_000)] = 100
    within: Duration = 1800.0

    def canary(self) -> Canary:
        return Canary(self.share, self.requests, self.within)


class ServiceDocument(Document):
    """`devices` is what each replica has, as cpu:1; with `share`, only that of one device, on which
    others may be. `concurrency` is how many requests it takes at
    once: those of the target unless said. `scale_to_zero` is after how long without a request the
    last replica rests; without it `replicas.min` always stay. One that rests waits in memory for
    its next turn, unless `warm` is false: then its program ends, and is started anew."""

    name: Annotated[Name, StringConstraints(max_length=_NAME_MOST)]
    run: Command
    kind: Literal["serve"]
    project: Name = "default"
    tier: Literal["premium", "standard", "basic"] = "standard"
    env: Environment = Field(default_factory=dict)
    workdir: Workdir = ""
    devices: str | Annotated[int, Field(strict=True)] = "cpu:1"
    memory: Size | None = None
    share: Sharing | None = None
    place: Place = Place()
    replicas: Replicas = Replicas()
    target: Carries
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    slo: Promised | None = None
    scale_to_zero: Duration | None = None
    queue: Queue = Queue()
    health: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=1024)] = "/"
    grace: Annotated[Duration, Field(le=3600.0)] = 30.0
    warm: bool = True

    @model_validator(mode="before")
    @classmethod
    def _only_a_service(cls, data: object) -> object:
        for key, why in _JOBS_ONLY.items():
            if isinstance(data, Mapping) and key in data:
                raise ValueError(f"{key}: {why}")
        return data

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        _, count = gang_of(self.devices)
        if self.share is not None and count != 1:
            raise ValueError("share: a replica is one process, with a share of one device")
        if self.share is not None and self.memory is not None:
            raise ValueError("memory: with a share, share.memory is the limit of a replica")
        if self.place.spread or self.place.prefer or self.place.same_rack:
            raise ValueError("place: a replica is one process; it takes regions, not, and apart")
        try:
            unwrap(self.run, 1, self.env)
        except InvalidSpec as error:
            raise ValueError(f"run: {error.detail}") from None
        for name in self.env:
            if name == "PORT" or name.startswith("SINGULARITY_"):
                raise ValueError(f"env: {name} is ours; choose another name")
        return self

    def service(self, id_: ServiceId) -> Service:
        """As new, in its first revision."""
        return Service(
            id=id_,
            name=self.name,
            project=self.project,
            spec=self._spec(id_),
            least=self.replicas.min,
            most=self.replicas.max,
            target=self.target.target(),
            queue_most=self.queue.most,
            timeout_s=self.queue.timeout,
            idle_after_s=self.scale_to_zero,
            slo=self.slo.slo() if self.slo else None,
        )

    def _spec(self, id_: ServiceId) -> JobSpec:
        """What a replica runs. A rank is one process, with all the devices of the replica."""
        device, count = gang_of(self.devices)
        at_once = self.concurrency or math.ceil(self.target.target().value)
        return JobSpec(
            name=self.name,
            run=self.run,
            device=device,
            devices=count,
            devices_min=count,
            devices_max=count,
            project=self.project,
            kind=Kind.SERVE,
            tier=Tier[self.tier.upper()],
            env=tuple(sorted(self.env.items())),
            workdir=self.workdir,
            regions=self.place.regions,
            avoid=self.place.avoid,
            same_node=True,
            topology=self.place.topology(),
            checkpoint_every_s=0.0,
            retry_infra=_FOR_EVER,
            retry_user=_FOR_EVER,
            memory_bytes=self.memory,
            share=self.share.share() if self.share else None,
            engines=(Engine.RESTART,),
            serving=Serving(id_, 1, self.health, self.grace, at_once, self.warm),
        )


class Rescaling(Document):
    """What is left out stays."""

    replicas: Replicas | None = None
    target: Carries | None = None


class Update(Document):
    """With `canary` the new revision is tried first; {} tries it as is usual."""

    service: dict[str, Any]
    canary: Trying | None = None


def read_service(body: object) -> ServiceDocument:
    """Check what was sent. Raises InvalidSpec naming every wrong field."""
    try:
        return ServiceDocument.model_validate(body)
    except ValidationError as error:
        found: Sequence[Mapping[str, Any]] = error.errors()
        raise invalid(found) from None


def service_schema() -> dict[str, Any]:
    """JSON Schema of the service document as it may be written."""
    found = ServiceDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
