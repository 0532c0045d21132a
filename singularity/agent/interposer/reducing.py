"""DDP's reducer calls from C++, and so it has the communicator itself, not the group around it.

By the end of a backward pass nothing of Python is in the processor's caches any more: to come back
to it for a bucket takes a hundred microseconds, where the same calls one after another take six. A
reducer waits for all that it has begun before its pass is over, so a rank that is held between two
passes has no Work of it to let go of. What the group would have told (see Witness) is told once a
pass, before its forward: a pass is a deal of its own. While the group has no communicator, and
while ranks take turns on a slot, the reducer has a group that is written in Python as before, but
tells of nothing.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._C._distributed_c10d import Reducer
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from .deals import NOBODY, Deal, group_number
from .groups import VirtualGroup

_MADE, _BEFORE = "_ddp_init_helper", "_pre_forward"
_AGREES = "_check_global_requires_backward_grad_sync"  # once a pass, where batches are uneven
_SETTINGS = ("_register_builtin_comm_hook", "_set_static_graph")  # of a module, after it was made


class _Aside(VirtualGroup):
    """The same group, of which nobody is told what is begun in it."""

    def __init__(self, group: VirtualGroup) -> None:
        super().__init__(group.spec, group.links)
        self._group = group

    @property
    def inner(self) -> ProcessGroup:
        return self._group.inner

    def begin(self, deal: Deal | None) -> None:
        """Its pass was told of."""


class Reducers:
    """Those of one group."""

    def __init__(self, group: VirtualGroup) -> None:
        self._group, self._aside = group, _Aside(group)
        self._modules: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()
        spec = group.spec
        number = group_number(f"{group.links.name} passes of {spec.key}", spec.members)
        self._pass = Deal(number, 0, spec.rank, NOBODY)

    def admit(self, module: DistributedDataParallel) -> None:
        """Give its reducer what it calls, from now on."""
        self._modules.add(module)
        if self._group.links.witness is not None:
            self._group.links.witness.begin(self._pass, times=0)
        self.route()

    def begin(self) -> None:
        """A pass is about to begin."""
        self._group.begin(self._pass)

    def route(self) -> None:
        """Let every reducer call what it should by now."""
        direct = self._group.connected and self._group.links.slots.number < 0
        self._let_call(self._group.inner if direct else self._aside)

    def set_up(self, setting: Callable[[], Any]) -> Any:
        """What a setting keeps of a reducer's group must never be a communicator."""
        self._let_call(self._aside)
        try:
            return setting()
        finally:
            self.route()

    def _let_call(self, target: ProcessGroup) -> None:
        for module in self._modules:
            if module.process_group is self._group:  # it may have been given another
                module.reducer._update_process_group(target if direct(module) else self._group)


def direct(module: DistributedDataParallel) -> bool:
    """May its reducer go past the group? Those that look for unused parameters, and those of a
    static graph, keep a Work from one pass to the next, and a Work keeps the sockets."""
    kept = module.find_unused_parameters or module.static_graph
    return not kept and not module._use_python_reducer


def reducers(module: DistributedDataParallel) -> Reducers | None:
    """Those of the group that `module` has now; None if its reducer goes by the group itself."""
    group = module.process_group
    if not isinstance(group, VirtualGroup) or not direct(module):
        return None
    if group.reducers is None:
        group.reducers = Reducers(group)
    assert isinstance(group.reducers, Reducers)
    return group.reducers


def _tell(module: DistributedDataParallel) -> None:
    """A pass of that module is about to begin."""
    known = getattr(module.process_group, "reducers", None)  # of whatever group that may be
    if known is not None and direct(module):
        known.begin()


# torch.compile follows DDP's forward and what it calls, and would fail on a group of ours. To be
# called by way of this costs some microseconds, so nobody is who is not compiled.
_tell_untraced = torch._disable_dynamo(_tell)  # type: ignore[attr-defined]


def install() -> None:
    """Enter DDP. Where this torch lacks a seam, reducers go by the group."""
    if not hasattr(Reducer, "_update_process_group"):
        return
    seams = _MADE, _BEFORE, _AGREES
    if not all(hasattr(DistributedDataParallel, name) for name in (*seams, *_SETTINGS)):
        return
    made, before, agrees = (getattr(DistributedDataParallel, name) for name in seams)

    @functools.wraps(made)
    def _ddp_init_helper(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if (known := reducers(self)) is not None:
            known.admit(self)

    @functools.wraps(before)
    def _pre_forward(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            (_tell_untraced if torch.compiler.is_compiling() else _tell)(self)
        return before(self, *args, **kwargs)

    @functools.wraps(agrees)
    def _agrees(self: DistributedDataParallel, is_joined_rank: bool) -> Any:
        if is_joined_rank:  # it has no batches left, and follows the others' passes
            _tell(self)
        return agrees(self, is_joined_rank)

    for name, seam in zip(seams, (_ddp_init_helper, _pre_forward, _agrees), strict=True):
        setattr(DistributedDataParallel, name, seam)
    for name in _SETTINGS:
        setattr(DistributedDataParallel, name, _setting(getattr(DistributedDataParallel, name)))


def _setting(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def setting(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
        set_it = functools.partial(plain, self, *args, **kwargs)
        known = reducers(self)
        return set_it() if known is None else known.set_up(set_it)

    return setting
