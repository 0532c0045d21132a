"""What the hands of a node answer when react() has asked something of them, or tell unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from singularity.primitives.findings import Certificate
from singularity.primitives.model import JobId, ShardImage, Unable


@dataclass(frozen=True, slots=True)
class Started:
    """They run. `reason` says why they can never be dumped here, "" if they can."""

    job: JobId
    incarnation: int
    step: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """The cut is durable on this node; the ranks run on, or are gone when it was a release."""

    job: JobId
    incarnation: int
    cut: int
    released: bool
    image: ShardImage
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CutFailed:
    """The gang gave the cut up; the ranks run on. `unable`: its engine would always fail so."""

    job: JobId
    incarnation: int
    cut: int
    reason: str
    unable: Unable | None = None


@dataclass(frozen=True, slots=True)
class Resized:
    """Every rank takes turns by the new slots; or, with a `reason`, all by the old ones."""

    job: JobId
    incarnation: int
    resize: int
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """A replica takes requests, at `endpoint`."""

    job: JobId
    incarnation: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class Hung:
    """A rank has made no step for too long; where all of them stand is kept."""

    job: JobId
    incarnation: int
    reason: str
    step: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The ranks could not be started; none of them is left."""

    job: JobId
    incarnation: int
    reason: str
    corrupt: bool = False
    unfit: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """No rank runs. `exit_code` when the programs ended themselves; None when they were
    killed: by us after a Kill (`killed`), else by something that was no decision of ours.
    `warm`: it was not killed, but waits here for its next life.
    `step` is the last mini-batch that the programs completed, where that is known; `certificate`
    what was found, when they ran aside."""

    job: JobId
    incarnation: int
    killed: bool = False
    exit_code: int | None = None
    reason: str = ""
    step: int = 0
    certificate: Certificate | None = None
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Cooled:
    """What waited here, warm, of that life waits no more."""

    job: JobId
    incarnation: int


Done = Started | Answers | Saved | CutFailed | Resized | Hung | Refused | Ended | Cooled
