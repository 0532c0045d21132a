"""Where the interposer enters torch: the rendezvous, the making of groups, the optimizer step."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import PrefixStore, Store
from torch.optim.optimizer import register_optimizer_step_post_hook

from . import family, reducing
from .cut import Rank
from .groups import GroupRequest, Links, VirtualGroup
from .inner import carries, device_backends
from .page import Page, State
from .slots import Slots
from .untraced import leave_untraced


@dataclass(frozen=True, slots=True)
class Place:
    """This rank's place in the job, as the launcher gave it.

    alone   the plane launched one process; it and all that it starts may form worlds of their own
    owner   this is that process
    """

    rank: int
    world: int
    alone: bool = False
    owner: bool = True


class Seams:
    """The two functions of torch that are replaced, and what they were."""

    def __init__(self, rank: Rank, place: Place) -> None:
        self._rank = rank
        self._place = place
        self._plain_rendezvous = c10d.rendezvous  # type: ignore[attr-defined]
        self._plain_new_group = c10d._new_process_group_helper
        self._signature = inspect.signature(self._plain_new_group)
        self._main, self._owner = rank.page.path, os.getpid() if place.owner else 0
        self._uses = 0  # worlds met at the store of an agent of torchrun

    def install(self) -> None:
        """Replace them. AttributeError above if this torch does not have them."""
        c10d.rendezvous = self._rendezvous  # type: ignore[attr-defined]
        c10d._new_process_group_helper = self._new_group

    def _ours(self, world: int) -> bool:
        """Whether a group of that size is the whole job: a process that builds some other world
        of its own gets plain torch, as does a job that the agent gave no rendezvous."""
        if self._place.alone and os.getpid() != self._owner:
            return False
        return world == self._place.world and bool(self._rank.page.rendezvous["store"])

    def _rendezvous(
        self, url: str, rank: int = -1, world_size: int = -1, **kwargs: Any
    ) -> Iterator[tuple[Store, int, int]]:
        query = parse_qs(urlparse(url).query)
        own = int(query["rank"][0]) if "rank" in query else self._place.rank
        world = int(query["world_size"][0]) if "world_size" in query else self._place.world
        if self._place.alone and url.startswith("env://"):
            world = int(os.environ.get("WORLD_SIZE", world))  # the program's, by now
        own = rank if rank >= 0 else own
        world = world_size if world_size > 0 else world
        if self._ours(world):
            self._connect()
            yield self._rank.links.store, own, world
        elif self._place.alone:
            yield self._family(
                lambda: next(self._plain_rendezvous(url, rank, world_size, **kwargs))
            )
        else:
            yield from self._plain_rendezvous(url, rank, world_size, **kwargs)

    def _family(self, meet: Callable[[], tuple[Store, int, int]]) -> tuple[Store, int, int]:
        """Become a member of the world that meets at the store which `meet` opens."""
        rank, main = self._rank, Page(self._main)
        if os.getpid() != self._owner and rank.page.path == self._main:
            rank.page = family.join(main, os.getpid())
            rank.page.state = State.LOADED
        if not rank.links.count:
            rank.take(Links(Slots(self._main.parent)))  # its members count from nought together
        family.enter(main, rank.page)  # a cut must wait for us from here: sockets come
        links = rank.links
        try:
            store, own, world = meet()
            links.name = family.agree(store, own, world, self._use())
            del store
        except BaseException:
            rank.page.groups = links.count
            raise
        links.world = world
        rank.page.rendezvous = where = family.where(main)
        links.connect(where)
        return links.store, own, world

    def _use(self) -> str:
        """Workers of a torchrun meet at its store, world after world."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return ""
        self._uses += 1
        return str(self._uses)

    def _connect(self) -> None:
        links = self._rank.links
        if not links.store.connected:
            links.connect(self._rank.page.rendezvous)

    def _new_group(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        asked: dict[str, Any] = bound.arguments
        whole = not asked["global_ranks_in_group"]  # torch asks for the default group like this
        if whole:
            ours = self._ours(asked["group_size"]) or self._place.alone
        else:
            ours = isinstance(c10d._world.default_pg, VirtualGroup)
        if not ours or not carries(asked["backend"]):
            made: tuple[Any, Any] = self._plain_new_group(*args, **kwargs)
            return made
        if whole and not self._ours(asked["group_size"]) and not self._rank.links.store.connected:
            own, world = asked["group_rank"], asked["group_size"]
            self._family(lambda: (asked["store"], own, world))
        self._connect()  # the job may have brought a store of its own
        group = self._virtual_group(asked)
        if whole:
            self._rank.met()
        return group

    def _virtual_group(self, asked: dict[str, Any]) -> tuple[Any, Any]:
        """What torch's own helper does, with a VirtualGroup for the ProcessGroup."""
        tag, members = asked["pg_tag"] or "", tuple(asked["global_ranks_in_group"])
        if tag and (same := c10d._find_pg_by_ranks_and_tag(tag, list(members))):
            return same, c10d._world.pg_map[same][1]
        if members and dist.get_rank() not in members:
            return dist.GroupMember.NON_GROUP_MEMBER, None
        name, backend = asked["group_name"], asked["backend"]
        if name in c10d._world.pg_names.values():
            raise ValueError(f"the process group name {name} is taken")
        group = self._rank.links.new_group(
            GroupRequest(
                name=str(name),
                rank=asked["group_rank"],
                size=asked["group_size"],
                members=members,
                devices=device_backends(backend),
                timeout=asked["timeout"],
                options=asked["backend_options"],
            )
        )
        group._set_group_desc(asked["group_desc"] or "undefined")
        store = PrefixStore(f"{name}/", asked["store"])
        c10d._register_pg_in_world(
            group,
            backend_name=backend,
            store=store,
            group_name=name,
            backend_config=str(c10d.BackendConfig(c10d.Backend(backend))),
            pg_tag=f"user:{tag}" if tag else None,
            add_to_default_tag=not tag,
        )
        return group, store


def install(page: Page, place: Place) -> Rank:
    """Make this process a rank that can be cut.

    AttributeError or TypeError if this torch lacks a seam; nothing is replaced then.
    """
    if not place.owner:
        page.detach()  # it speaks for the process that was launched
    rank = Rank(page, Links(Slots(page.path.parent), place.world))
    if dist.is_available():
        Seams(rank, place).install()
        reducing.install()
    register_optimizer_step_post_hook(rank.boundary)
    os.register_at_fork(after_in_child=rank.become_child)
    atexit.register(rank.leave)
    leave_untraced(__name__.rpartition(".")[0])
    page.state = State.LOADED
    return rank
