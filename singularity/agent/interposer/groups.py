"""Process groups whose communicator can be taken away and built again under the job's feet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

import torch
from torch.distributed import ProcessGroup, Work

from .deals import ANYBODY, NOBODY, Deal, group_number
from .descriptors import Channels
from .inner import NCCL, GroupSpec, build
from .page import Rendezvous
from .slots import Slots
from .store import VirtualStore
from .works import Outstanding, ProxyWork, Turns

_COLLECTIVES: Final = (
    "_allgather_base",
    "_end_coalescing",
    "_reduce_scatter_base",
    "all_gather_single",
    "all_gather_single_coalesced",
    "all_to_all_single",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "allreduce",
    "allreduce_coalesced",
    "alltoall",
    "alltoall_base",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
    "scatter",
)
_MESSAGES: Final = ("recv", "recv_anysource", "send")


class Witness(Protocol):
    """Hears of what is done with others before it is begun."""

    def come(self, deal: Deal | None) -> None:
        """It is about to begin; here the rank may be held. None: what follows is one thing made of
        several, each of which `begin` is told."""

    def begin(self, deal: Deal, times: int = 1) -> None:
        """It begins, and nobody may be held."""


class Callers(Protocol):
    """Who calls a group's communicator from C++, past the group (see reducing.py)."""

    def route(self) -> None:
        """What they call may have changed."""


class Links:
    """Everything of this process that holds a socket: the store, the groups, their Works."""

    def __init__(self, slots: Slots, world: int = 1) -> None:
        """`world` is the number of ranks. `witness`, if any, is told of all that they begin with
        each other, and `counted` of the number of groups whenever it changes. `name` tells apart
        the worlds that meet at one rendezvous."""
        self.slots, self.world, self.name = slots, world, ""
        self.counted: Callable[[int], None] | None = None
        self.witness: Witness | None = None
        self.turns = Turns(slots)
        self.store = VirtualStore(slots)
        self.works = Outstanding()
        self._channels = Channels()
        self._groups: dict[str, VirtualGroup] = {}  # in creation order, the same on every member
        self._uses: Counter[str] = Counter()
        self._ip = ""

    def connect(self, rendezvous: Rendezvous) -> None:
        """Meet at `rendezvous` from now on, and rebuild there whatever was dropped."""
        self._ip = rendezvous["ip"]
        store = ".".join(part for part in (rendezvous["store"], self.name) if part)
        self.store.connect({**rendezvous, "store": store})
        for group in self._groups.values():
            group.attach(self._build(group.spec))

    def new_group(self, wanted: GroupRequest) -> VirtualGroup:
        """Connect a group; blocks until all its members ask for the same."""
        # torch may give a destroyed group's name to a new one; the store still knows the old.
        use = self._uses[wanted.name]
        self._uses[wanted.name] += 1
        spec = GroupSpec(
            name=wanted.name,
            key=f"{wanted.name}.{use}",
            rank=wanted.rank,
            size=wanted.size,
            members=wanted.members,
            devices=wanted.devices,
            timeout=wanted.timeout,
            options=wanted.options,
        )
        group = VirtualGroup(spec, self)
        group.attach(self._build(spec))
        self._groups[spec.key] = group
        self._count()
        if self.witness is not None:
            self.witness.begin(group.deal, times=0)
        return group

    def forget(self, group: VirtualGroup) -> None:
        """The job destroyed `group`; with the last one goes the store."""
        self._groups.pop(group.spec.key, None)
        self._count()
        if not self._groups:
            self.store.drop()

    @property
    def count(self) -> int:
        """Groups that there are."""
        return len(self._groups)

    def follow(self, slot: int) -> None:
        """Take turns on that slot from now on; see Slots."""
        before = self.slots.number
        self.slots.follow(slot)
        if before != slot:
            for group in self._groups.values():
                group.route()

    def _count(self) -> None:
        if self.counted is not None:
            self.counted(self.count)

    def drop(self) -> None:
        """Finish what is under way and close every socket; connect() brings all of it back."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self.works.settle()
        self.turns.clear()
        for group in self._groups.values():
            group.detach()
        self.store.drop()
        self._channels.clear()

    def drop_in_child(self) -> None:
        """In a forked child: let go of the descriptors, touch nothing else of the parent's."""
        self._channels.drop_in_child()
        self.slots.forget()

    def _build(self, spec: GroupSpec) -> ProcessGroup:
        with self.slots.yielded(), self._channels.opened():
            return build(spec, self.store.file, self._ip)


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """What torch asks for; see GroupSpec."""

    name: str
    rank: int
    size: int
    members: tuple[int, ...]
    devices: tuple[tuple[str, str], ...]
    timeout: timedelta
    options: Any = None


class VirtualGroup(ProcessGroup):
    """What torch and the job hold: a ProcessGroup that passes all on to the inner one.

    Collectives are added below the class. Torch calls them from Python and, through pybind's
    trampolines, from C++ (DDP's reducer, functional collectives).
    """

    def __init__(self, spec: GroupSpec, links: Links) -> None:
        super().__init__(spec.rank, spec.size)  # type: ignore[call-arg]  # stub lags
        self.spec = spec
        self.links = links
        self.reducers: Callers | None = None
        self._inner: ProcessGroup | None = None
        self._description = ""
        self._number = group_number(f"{links.name} {spec.key}", spec.members)
        self.deal = Deal(self._number, 0, spec.rank, NOBODY)  # a collective
        self._coalescing = False

    def attach(self, inner: ProcessGroup) -> None:
        """Pass all on to `inner` from now on."""
        self._inner = inner
        self.route()

    def detach(self) -> None:
        """Drop the communicator; its destructor closes the sockets."""
        if self._inner is not None and any(kind == NCCL for _, kind in self.spec.devices):
            self._inner.shutdown()  # not yet tried on hardware
        self._inner = None
        self.route()

    def route(self) -> None:
        """The communicator, or who may call it, has changed."""
        if self.reducers is not None:
            self.reducers.route()

    @property
    def connected(self) -> bool:
        """Whether there is a communicator in use."""
        return self._inner is not None

    @property
    def inner(self) -> ProcessGroup:
        """The communicator in use; RuntimeError after the job destroyed the group."""
        if self._inner is None:
            raise RuntimeError(f"process group {self.spec.name} is not connected")
        return self._inner

    def shutdown(self) -> None:
        self.detach()
        self.links.forget(self)

    def abort(self) -> None:
        self.shutdown()

    # Not the backend's name: DDP's logger would demand a real backend of that name in here.
    def getBackendName(self) -> str:  # noqa: N802  # pybind looks it up by this name
        return "singularity"

    def name(self) -> str:
        return "singularity"

    def rank(self) -> int:
        return self.spec.rank

    def size(self) -> int:
        return self.spec.size

    @property
    def group_name(self) -> Any:
        return self.spec.name

    def _set_group_desc(self, desc: str) -> None:
        self._description = desc

    @property
    def group_desc(self) -> str:
        return self._description

    @property  # type: ignore[misc]  # nobody may set it here
    def bound_device_id(self) -> torch.device | None:
        return None

    @property
    def _device_types(self) -> list[torch.device]:
        return self.inner._device_types

    def _get_backend(self, device: torch.device) -> Any:
        return self.inner._get_backend(device)

    def _get_sequence_number_for_group(self) -> int:
        return int(self.inner._get_sequence_number_for_group())  # type: ignore[attr-defined]

    def _start_coalescing(self, device: torch.device) -> None:
        self.begin(None)
        self._coalescing = True
        self.inner._start_coalescing(device)

    def _has_hooks(self) -> bool:
        return False

    def _wait_for_pending_works(self) -> None:
        """Nothing pends here: hooks, which alone would, are not offered."""

    def monitored_barrier(self, *args: Any, **kwargs: Any) -> None:
        self.begin(self.deal)
        with self.links.slots.yielded():
            self.inner.monitored_barrier(*args, **kwargs)  # type: ignore[attr-defined]

    def begin(self, deal: Deal | None) -> None:
        """Something with others is about to. Between what is coalesced nobody may stop."""
        witness = self.links.witness
        if witness is None or self.links.world == 1:
            return
        if not self._coalescing:
            witness.come(deal)
        elif deal is not None:
            witness.begin(deal)

    def _message(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deal:
        """Of a call to send or to receive: the tensors, the other's rank, a tag."""
        names = ("tensors", "tag") if verb == "recv_anysource" else ("tensors", "peer", "tag")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        peer = given.get("peer", given.get("dstRank", given.get("srcRank", ANYBODY)))
        ends = (self.spec.rank, peer) if verb == "send" else (peer, self.spec.rank)
        return Deal(self._number, int(given.get("tag", 0)) & 0xFFFF_FFFF, *map(int, ends))

    def _proxy(self, work: Work | None) -> ProxyWork | None:
        if work is None:
            return None
        proxy = ProxyWork.of(work, self.links.turns)
        self.links.works.add(proxy)
        return proxy


def _passed_on(name: str) -> Callable[..., ProxyWork | None]:
    def collective(self: VirtualGroup, *args: Any, **kwargs: Any) -> ProxyWork | None:
        self.begin(self.deal)
        return self._proxy(getattr(self.inner, name)(*args, **kwargs))

    def message(self: VirtualGroup, *args: Any, **kwargs: Any) -> ProxyWork | None:
        if self.links.witness is not None:
            self.begin(self._message(name, args, kwargs))
        return self._proxy(getattr(self.inner, name)(*args, **kwargs))

    def end_coalescing(self: VirtualGroup, *args: Any, **kwargs: Any) -> ProxyWork | None:
        self._coalescing = False
        return self._proxy(getattr(self.inner, name)(*args, **kwargs))

    if name == "_end_coalescing":
        return end_coalescing
    return message if name in _MESSAGES else collective


for _name in (*_COLLECTIVES, *_MESSAGES):
    if hasattr(ProcessGroup, _name):  # they differ between versions of torch
        setattr(VirtualGroup, _name, _passed_on(_name))
