"""What travels between control plane and agent. Parsed at both ends, trusted by neither."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from .cooperation import Cooperation
from .findings import Certificate
from .model import Aside, Engine, JobId, ShardImage, Unable
from .nodes import NodeId
from .serving import Serving
from .sharing import DeviceShare, Precedence

PROTOCOL: Final = 1
Phase = Literal["running", "hung", "dumped", "stopped", "exited", "lost", "refused"]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Command(Wire):
    job: JobId
    node: NodeId
    incarnation: Positive


class Origin(Wire):
    """The checkpoint to restore from; `shards` are the images that hold this node's ranks."""

    incarnation: Positive
    cut: Positive
    step: Natural
    shards: tuple[ShardImage, ...]


class Papers(Wire):
    """What a node needs to save the shards of one life of a job, and to read what earlier ones
    saved. Keys are base64. Without papers nothing is signed, with no `key` nothing is encrypted.

    project   whose checkpoints these are; chunks are shared inside it
    key       the project's
    seed      private half of the key by which this life signs its manifests, `public` the other
    warrant   the control plane's signature that `public` is the key of this life
    plane     public key of the control plane, by which warrants of other lives are known
    """

    project: str
    key: str
    seed: str
    public: str
    warrant: str
    plane: str


class Start(_Command):
    """Launch ranks afresh, or restore them when `origin` is given.

    `gang` lists every node of the job, lead first. `slots[i]` is the device of `ranks[i]` on this
    node, 0-based; ranks with equal slots take turns. `secret` authenticates gang messages and
    `papers` authenticate images; both are added when the letter is sealed, and kept nowhere else.
    With `aside`, `origin` is of another job: nothing of that may be touched, and the answer is
    how they compare. With `serving` the ranks listen on a port that the node gives them. With a
    `share`, `ranks[i]` has that of the node's device `indices[i]`.
    """

    verb: Literal["start"] = "start"
    gang: tuple[NodeId, ...]
    world: Positive
    ranks: tuple[int, ...]
    slots: tuple[int, ...]
    devices: Positive
    run: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    memory_bytes: int | None = None
    hang_after_s: float | None = None
    origin: Origin | None = None
    project: str = "default"
    aside: Aside | None = None
    secret: str = ""
    papers: Papers | None = None
    cooperation: Cooperation | None = None
    serving: Serving | None = None
    share: DeviceShare | None = None
    indices: tuple[Natural, ...] = ()


class Cut(_Command):
    """Take checkpoint number `cut`; afterwards go on running, or release the devices.

    `handover`: the ranks go on elsewhere at once, so keep their images in memory and store none;
    the ranks that `stay` go on here, and wait undumped.
    `note_after`: when they have gone on for so many mini-batches, the ranks shall note the hash
    of their parameters; 0: never.
    """

    verb: Literal["cut"] = "cut"
    cut: Positive
    keep_running: bool
    engine: Engine = Engine.TRANSPARENT
    note_after: Natural = 0
    handover: bool = False
    stay: tuple[int, ...] = ()


class Stop(_Command):
    """Kill the ranks without a checkpoint. Answered even when there is nothing to kill.

    `stacks`: first keep where each of them stands, for somebody will ask what it was waiting for.
    `grace_s`: a replica has no longer than that to end well, whatever its service says.
    `warm`: it need not end; its processes may wait there, without devices, for its next life.
    """

    verb: Literal["stop"] = "stop"
    stacks: bool = False
    grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    warm: bool = False


class Reslot(_Command):
    """Let the ranks share `devices` of this node by new `slots`, from their next mini-batch on."""

    verb: Literal["reslot"] = "reslot"
    resize: Positive
    slots: tuple[int, ...]
    devices: Positive


Command = Start | Cut | Stop | Reslot


class Envelope(Wire):
    """One command in a node's log. A node takes those of its epoch, in order, once."""

    protocol: Literal[1] = PROTOCOL
    node: NodeId
    epoch: Positive
    seq: Positive
    command: Annotated[Command, Field(discriminator="verb")]


class Sealed(Wire):
    """An Envelope as signed bytes: `body` is its JSON, `sig` the Ed25519 signature in base64."""

    body: str
    sig: str


class Report(Wire):
    """The latest truth of one job on one node; each one replaces all earlier ones.

    phase     running; hung: they are there, but one has made no step for too long (`reason`), its
              stack is kept, and somebody should stop them; or gone: dumped (after `cut`),
              stopped, exited (`exit_code`), lost (the ranks died with no exit of their own),
              refused (could not be started: `reason`)
    cut       the last cut this node has finished with, 0 for none; `image` when it is durable,
              else `reason` says why not
    corrupt   the image to restore from did not verify: never try it again
    unfit     this node's processors lack what the image needs: never try it here again
    unable    running: the transparent engine cannot work here; cut failed: its engine never will
    step      mini-batches completed at the cut, at the start, or at the end
    seconds   how long each part took: barrier, dump, store, fetch, restore, reconnect, resize,
              launch, wake
    resize    the last change of slots this node has finished with, 0 for none; `devices` is what
              its ranks share since then, and `reason` says why that is not what was asked
    certificate  how ranks that were restored aside compare, when they have ended
    endpoint     of a replica that runs: where it answers, "host:port"; "" until it does
    warm         of one that was stopped: its processes wait there still, for its next life
    """

    job: JobId
    node: NodeId
    incarnation: Positive
    phase: Phase
    cut: Natural = 0
    image: ShardImage | None = None
    step: Natural = 0
    exit_code: int | None = None
    corrupt: bool = False
    unfit: bool = False
    unable: Unable | None = None
    reason: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    resize: Natural = 0
    devices: Natural = 0
    certificate: Certificate | None = None
    endpoint: str = Field(default="", max_length=256)
    warm: bool = False


class Register(Wire):
    """A node presents itself. `epoch` is the last one it was admitted under, 0 for never.

    Shares of its devices can be had where it says how much memory each has, and real-time ones
    where it `preempts`; whole ones where they are given out `whole`.
    """

    node: NodeId
    region: str
    cluster: str
    device: str
    devices: Positive
    address: str
    rack: str = ""
    epoch: Natural = 0
    memory_bytes: Natural = 0
    preempts: bool = False
    whole: bool = True


class Admission(Wire):
    """The answer to Register. A new `epoch` means: kill every rank, forget every job.

    `token` is given once, when the node is new or joins with the join token again.
    """

    epoch: Positive
    token: str | None = None
    verify_key: str  # Ed25519 public key, base64
    broker_url: str
    heartbeat_every_s: float
    lease_s: float


class SharerNote(Wire):
    """One rank that has a share of a device, as it was found.

    cap_bytes   of memory; it may not have more
    busy        of the device's compute, 0 to 1 or somewhat more; None: not known
    slowdown    how many times as long its work took as if it had run whenever it could; None
                where it did nothing, or nobody can tell
    held_s      of the device: how long its work was kept waiting for others, in its life so far
    lost_s      and what it lacks of what its share promises
    complaint   why its share is not enforced; "" while it is
    unyielding  0 to 1, of its launches so far: what could not leave the device block by block; None
                where nothing has to
    """

    job: JobId
    rank: Natural
    precedence: Precedence
    compute_milli: Natural
    used_bytes: Natural
    cap_bytes: Natural
    busy: float | None = None
    slowdown: float | None = None
    held_s: float = Field(default=0.0, ge=0)
    lost_s: float = Field(default=0.0, ge=0)
    incarnation: Natural = 0
    complaint: str = Field(default="", max_length=512)
    unyielding: float | None = Field(default=None, ge=0)


class DeviceNote(Wire):
    """One accelerator of a node as it was found. None and "" where it does not tell.

    utilisation   0 to 1
    health        "" while it is well
    links         indices of others of this node that it reaches without the host
    sharers       ranks that have shares of it
    yields        best-effort kernels leave it block by block
    """

    index: Natural
    uuid: str = Field(max_length=128)
    name: str = Field(max_length=128)
    memory_bytes: Natural
    used_bytes: Natural
    utilisation: float | None = Field(default=None, ge=0, le=1)
    temperature_c: int | None = None
    health: str = Field(default="", max_length=512)
    links: tuple[Natural, ...] = Field(default=(), max_length=1024)
    sharers: tuple[SharerNote, ...] = Field(default=(), max_length=1024)
    yields: bool = False


class Heartbeat(Wire):
    """Repeats everything the control plane may have missed. `devices` comes now and then, and is
    then all that the node has."""

    node: NodeId
    epoch: Positive
    acknowledged: Natural
    reports: tuple[Report, ...] = ()
    devices: tuple[DeviceNote, ...] | None = Field(default=None, max_length=1024)


class Pulse(Wire):
    """The answer to Heartbeat.

    admitted      False: the node was declared lost meanwhile and must register again
    acknowledged  the `seq` up to which commands were written, so the agent knows what to pull
    forget        (job, incarnation) whose last report need not be repeated
    """

    admitted: bool
    written: Natural
    lease_s: float
    forget: tuple[tuple[JobId, int], ...] = ()


def warrant_text(project: str, job: JobId, incarnation: int, public: str) -> bytes:
    """What the control plane signs to say that `public` is the key of one life of a job. Names
    hold no NUL."""
    return f"singularity-warrant-v1\0{project}\0{job}\0{incarnation}\0{public}".encode()
