"""The nouns. Frozen, comparable, free of I/O; every field carries its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

from .cooperation import Cooperation
from .findings import Certificate
from .nodes import NodeId, Scope
from .service import Account, Loan, Pace, Taken
from .serving import Serving
from .sharing import DeviceShare
from .topology import Topology

JobId = NewType("JobId", str)


class Tier(IntEnum):
    """Lower is more urgent: victims are searched from the highest value down."""

    PREMIUM = 0
    STANDARD = 1
    BASIC = 2


class Kind(StrEnum):
    TRAIN = "train"
    BATCH = "batch"
    SERVE = "serve"  # a replica of a service, see Serving
    VERIFY = "verify"  # restores a cut of another job beside it and compares; see Aside


class JobState(StrEnum):
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDING = "suspending"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING = frozenset({JobState.PENDING, JobState.SUSPENDED})
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.SUSPENDING, JobState.STOPPING})
TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Intent(StrEnum):
    """What the job's owner wants. The scheduler makes it true."""

    RUN = "run"
    HOLD = "hold"
    CANCEL = "cancel"


class Goal(StrEnum):
    """Why a gang is being stopped, so what it becomes when the last survivor is gone."""

    RETRY = "retry"
    CANCEL = "cancel"
    FAIL = "fail"


class Sealing(StrEnum):
    """What is done to checkpoints so that nobody else can read or make one."""

    NONE = "none"
    SIGNED = "signed"
    ENCRYPTED = "encrypted"  # and signed


class Engine(StrEnum):
    """How a job's progress is kept, best first: its processes as they are, a checkpoint that its
    own program writes when it is signalled, or not at all."""

    TRANSPARENT = "transparent"
    COOPERATIVE = "cooperative"
    RESTART = "restart"


class Unable(StrEnum):
    """Why an engine that was tried can never do it here, and another may: the node, or the job."""

    NODE = "node"
    JOB = "job"


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One job's ranks on one node, and how many of its devices they hold; where the job has shares
    of devices, `indices` are those of its ranks, in their order."""

    node: NodeId
    devices: int
    ranks: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()


Placement = tuple[Shard, ...]


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """What a node keeps in memory as its part of a handover, until the ranks run elsewhere. Whoever
    shows its agent the `token` is given it; a node of the same `machine` finds it in `directory`.
    `standing` ranks were not dumped: they wait where they are."""

    token: str
    machine: str
    directory: str
    standing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ShardImage:
    """What one node stored for one cut, after `step` mini-batches. `digest` is the blake3 of
    its manifest. With the cooperative engine it holds files that the program wrote, and may hold
    none: those of the whole job are with rank 0. What is `held` is in no store."""

    node: NodeId
    ranks: tuple[int, ...]
    digest: str
    step: int = 0
    raw_bytes: int = 0
    new_bytes: int = 0
    engine: Engine = Engine.TRANSPARENT
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A cut that every shard of one incarnation holds: the only thing a job resumes from. One
    whose shards are in the store counts as a checkpoint; one whose shards are held in memory is a
    handover, good for the one move that it was made for."""

    incarnation: int
    cut: int
    step: int
    at_s: float
    shards: tuple[ShardImage, ...]

    @property
    def engine(self) -> Engine:
        return self.shards[0].engine

    @property
    def raw_bytes(self) -> int:
        return sum(image.raw_bytes for image in self.shards)

    @property
    def standing(self) -> Mapping[NodeId, tuple[int, ...]]:
        """Ranks that have not left their node, where there are any."""
        found = {i.node: i.held.standing for i in self.shards if i.held}
        return {node: ranks for node, ranks in found.items() if ranks}


@dataclass(frozen=True, slots=True)
class Aside:
    """What a job of kind verify is about: a cut of the job `of`, restored beside it for `steps`
    mini-batches. `cut` 0 is one that is taken for it, after which `of` notes the hash of its
    parameters; others are told from each other by `incarnation` and `cut`."""

    of: JobId
    steps: int
    incarnation: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the owner asked for; never changes after submit.

    `devices` of kind `device` at full size; elastic jobs may hold `devices_min` to `devices_max`.
    `ranks` is the constant world size. With a `share`, each rank has that of a device of its own.
    """

    name: str
    run: tuple[str, ...]
    ranks: int = 1
    device: str = "cpu"
    devices: int = 1
    devices_min: int = 1
    devices_max: int = 1
    project: str = "default"
    kind: Kind = Kind.TRAIN
    tier: Tier = Tier.STANDARD
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    regions: tuple[str, ...] = ()  # allowed; () is anywhere; entries may be globs
    avoid: tuple[str, ...] = ()  # refused regions; globs
    same_node: bool = False
    checkpoint_every_s: float | None = None  # None: as often as pays; 0: only when suspended
    checkpoint_keep: int = 2
    retry_infra: int = 10
    retry_user: int = 0
    retry_exit_codes: tuple[int, ...] = ()  # () with retry_user > 0: any non-zero
    max_duration_s: float | None = None
    hang_after_s: float | None = None  # with no step of some rank; None: never taken for hung
    memory_bytes: int | None = None  # limit of one rank
    after: tuple[JobId, ...] = ()
    engines: tuple[Engine, ...] = (Engine.TRANSPARENT,)  # allowed, in this order
    cooperation: Cooperation | None = None
    aside: Aside | None = None
    topology: Topology = Topology()
    serving: Serving | None = None
    share: DeviceShare | None = None
    data: tuple[str, ...] = ()  # regions where what it reads lies; globs; () is anywhere

    @property
    def fraction(self) -> float:
        """Of each of its devices, for accounts."""
        return self.share.fraction if self.share else 1.0

    @property
    def named(self) -> tuple[JobId, ...]:
        """Other jobs that this one cannot be judged without."""
        return (*self.after, self.aside.of) if self.aside else self.after


@dataclass(frozen=True, slots=True)
class Job:
    """What the control plane believes about one job.

    `incarnation` fences every command: it grows by one at each placement, and an agent refuses
    anything older. `version` is the optimistic lock of the row. `devices` is what its owner wants
    it to hold (`held` is what it has); `confine` where its owner moved it to. `cut` numbers its
    checkpoints; while one is being taken, `dumping` are the nodes that have not answered and
    `gathered` the images that are durable. `checkpoints` are those that count, newest first.
    `handover` is newer than all of them: what the life before left in the memory of its nodes for
    the next, until that runs; `carried_s` is the progress that so came to this life unsaved.
    `back_to` is the checkpoint, by incarnation and cut, that its owner wants it to go back to.
    `awaiting` are the nodes still to report before the state can change, `exited` those whose
    ranks have all ended well, `corrupt_in` the incarnation that last found its checkpoint corrupt.
    `cut_ended_s` is when the last cut was over, well or not; `pausing_s` what the cut in flight has
    cost the ranks so far, and `pause_s` what those that count have cost on average, newest first;
    `restoring_s` and `restore_s` the same of coming back. `taken` is what it gave up for others,
    `account` what it was given of what it asked for (sla.py), and `paces` how fast it was on how
    many devices (pace.py).
    `resize` numbers changes of devices without a cut; `resizing` are the nodes that have not
    answered the one in flight, and `resize_refused` says that this life's ranks did not follow one.
    `fallen` is how far down its chain of engines the job has come, all the way when none works;
    `fallen_by` and `fallen_reason` say why. `cutting` is the place in the chain of the engine that
    takes the cut in flight. `unfit` are nodes whose processors cannot run its newest image.
    `certificate` is the newest finding on a cut of it; of a job of kind verify, its own.
    Of a replica, `endpoint` is where it answers, "host:port", "" until it does, and `leaving_at_s`
    is since when it gets no new requests; of one without devices, `warm` is the node where its
    processes still wait, as far as is known. `loans` are devices that replicas have of this job.
    """

    id: JobId
    spec: JobSpec
    devices: int
    submitted_at_s: float = 0.0
    state: JobState = JobState.PENDING
    since_s: float = 0.0
    version: int = 0
    intent: Intent = Intent.RUN
    goal: Goal = Goal.RETRY
    confine: Scope | None = None
    incarnation: int = 0
    placement: Placement = ()
    target: Placement = ()
    awaiting: frozenset[NodeId] = frozenset()
    exited: frozenset[NodeId] = frozenset()
    cut: int = 0
    cut_at_s: float = 0.0
    cut_ended_s: float = 0.0
    pausing_s: float = 0.0
    pause_s: float | None = None
    restoring_s: float = 0.0
    restore_s: float | None = None
    dumping: frozenset[NodeId] = frozenset()
    gathered: tuple[ShardImage, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    handover: Checkpoint | None = None
    carried_s: float = 0.0
    checkpoint_wanted: bool = False
    back_to: tuple[int, int] | None = None
    corrupt_in: int = 0
    step: int = 0
    started_at_s: float | None = None  # first time RUNNING
    running_at_s: float | None = None  # since when this incarnation makes progress
    infra_failures: int = 0
    user_failures: int = 0
    dump_failures: int = 0
    hangs: int = 0  # ever
    retry_at_s: float = 0.0
    exit_code: int | None = None
    message: str = ""
    resize: int = 0
    resize_at_s: float = 0.0
    resizing: frozenset[NodeId] = frozenset()
    resize_refused: bool = False
    fallen: int = 0
    fallen_by: Unable | None = None
    fallen_reason: str = ""
    cutting: int = 0
    unfit: frozenset[NodeId] = frozenset()
    certificate: Certificate | None = None
    taken: Taken | None = None
    account: Account | None = None
    paces: tuple[Pace, ...] = ()
    endpoint: str = ""
    leaving_at_s: float | None = None
    warm: NodeId | None = None
    loans: tuple[Loan, ...] = ()

    @property
    def engine(self) -> Engine | None:
        """What the next cut is expected to come to; None when it would fail, and the job run on."""
        return self.spec.engines[self.fallen] if self.fallen < len(self.spec.engines) else None

    @property
    def tier(self) -> Tier:
        return self.spec.tier

    @property
    def held(self) -> int:
        """Devices of the current placement."""
        devices = 0
        for shard in self.placement:  # asked so often that a generator is felt
            devices += shard.devices
        return devices

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest that survives any node."""
        return self.checkpoints[0] if self.checkpoints else None

    @property
    def origin(self) -> Checkpoint | None:
        """What its next life begins from."""
        return self.handover or self.checkpoint

    @property
    def nodes(self) -> frozenset[NodeId]:
        return frozenset(s.node for s in self.placement)
