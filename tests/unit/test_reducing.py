"""What DDP's reducers call: the communicator itself, with no Python in between, and nothing that
would keep it when it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # after the import that may be missing
from torch.distributed import BuiltinCommHookType  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from singularity.agent.interposer import reducing  # noqa: E402
from singularity.agent.interposer.deals import Deal  # noqa: E402
from singularity.agent.interposer.descriptors import sockets  # noqa: E402
from singularity.agent.interposer.groups import GroupRequest, Links, VirtualGroup  # noqa: E402
from singularity.agent.interposer.slots import Slots  # noqa: E402


class World:
    """A gang as one of its ranks sees it, in a group that is this rank's alone. `told` is what it
    was about to do with others, `called` what came by way of Python."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._meetings = directory, 0
        self.told: list[Deal | None] = []
        self.called: list[str] = []
        self.links = Links(Slots(directory), world=2)
        self.links.witness = self
        self.meet()
        self.group = self.links.new_group(
            GroupRequest("0", 0, 1, (0,), (("cpu", "gloo"),), timedelta(minutes=1))
        )

    def meet(self) -> None:
        self._meetings += 1
        store = str(self._directory / f"store-{self._meetings}")
        self.links.connect({"store": store, "generation": self._meetings, "ip": ""})

    def come(self, deal: Deal | None) -> None:
        self.told.append(deal)

    def begin(self, deal: Deal, times: int = 1) -> None:
        self.told += [deal] * times

    def module(self, **options: Any) -> DistributedDataParallel:
        torch.manual_seed(1)
        return DistributedDataParallel(nn.Linear(4, 2), process_group=self.group, **options)

    def learn(
        self, module: DistributedDataParallel, forward: Callable[..., Any] | None = None
    ) -> torch.Tensor:
        """One pass, and what it added to the gradient."""
        self.told.clear()
        self.called.clear()
        module.zero_grad()
        (module if forward is None else forward)(torch.ones(3, 4)).sum().backward()
        found: torch.Tensor = module.module.weight.grad
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    names = (reducing._MADE, reducing._BEFORE, reducing._AGREES, *reducing._SETTINGS)
    for name in names:  # to be taken back
        monkeypatch.setattr(DistributedDataParallel, name, getattr(DistributedDataParallel, name))
    reducing.install()
    made = World(tmp_path)
    passed_on: Callable[..., Any] = VirtualGroup.allreduce

    def allreduce(self: VirtualGroup, *args: Any, **kwargs: Any) -> Any:
        made.called.append(type(self).__name__)
        return passed_on(self, *args, **kwargs)

    monkeypatch.setattr(VirtualGroup, "allreduce", allreduce)
    yield made
    made.links.drop()
    made.links.slots.close()


def test_a_pass_is_told_of_once_and_nothing_of_it_comes_by_way_of_python(world: World) -> None:
    module = world.module(bucket_cap_mb=1e-5)  # a bucket each parameter
    expected = torch.full((2, 4), 3.0)
    for _ in range(3):
        assert torch.equal(world.learn(module), expected)
        assert (len(world.told), world.called) == (1, [])
    with module.no_sync():
        world.learn(module)
    assert world.called == []
    with torch.no_grad():
        world.told.clear()
        module(torch.ones(3, 4))
    assert world.told == [], "nobody meets"


def test_a_pass_that_is_compiled_is_told_of_as_well(world: World) -> None:
    """torch.compile follows DDP's forward into what we put there, and failed on the group."""
    module = world.module()
    forward = torch.compile(module, backend="eager")
    for _ in range(3):
        assert torch.equal(world.learn(module, forward), torch.full((2, 4), 3.0))
        assert (len(world.told), world.called) == (1, [])


def test_ranks_that_take_turns_hand_them_over_while_the_reducer_waits(world: World) -> None:
    module = world.module()
    world.learn(module)
    world.links.follow(0)
    world.learn(module)
    assert set(world.called) == {"_Aside"}
    assert len(world.told) == 1, "it is told of as where nobody takes turns"
    world.links.follow(-1)
    world.links.slots.close()
    world.learn(module)
    assert world.called == []


def test_a_rank_without_batches_tells_of_the_passes_that_it_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the others had come to passes to which it never comes, and no cut could be."""
    module = world.module()
    world.learn(module)
    (a_pass,) = world.told
    world.told.clear()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: Mock())
    module._check_global_requires_backward_grad_sync(is_joined_rank=True)
    assert world.told == [a_pass]
    module._check_global_requires_backward_grad_sync(is_joined_rank=False)
    assert world.told == [a_pass], "whose forward has told of it"


@pytest.mark.parametrize(
    ("options", "setting", "straight"),
    [
        ({}, None, True),
        ({"gradient_as_bucket_view": True}, None, True),
        ({"find_unused_parameters": True}, None, False),
        ({"static_graph": True}, None, False),
        ({}, lambda module: module._set_static_graph(), False),
        (
            {},
            lambda module: module._register_builtin_comm_hook(BuiltinCommHookType.ALLREDUCE),
            False,
        ),
    ],
    ids=["plain", "views", "unused", "static", "static-later", "built-in-hook"],
)
def test_a_communicator_goes_when_it_is_dropped_and_the_next_is_used(
    world: World,
    options: dict[str, Any],
    setting: Callable[[DistributedDataParallel], None] | None,
    straight: bool,
) -> None:
    world.links.drop()
    others = sockets()  # that this process has besides
    world.meet()
    module = world.module(**options)
    if setting is not None:
        setting(module)
    first = world.learn(module).clone()
    for _ in range(2):
        world.links.drop()
        assert sockets() == others
        with pytest.raises(RuntimeError, match="is not connected"):
            world.group.inner.rank()
        world.meet()
        assert torch.equal(world.learn(module), first)
        assert (world.called == []) == straight


def test_a_module_that_was_given_another_group_is_left_alone(world: World) -> None:
    world.links.drop()
    others = sockets()
    world.meet()
    module = world.module()
    other = world.links.new_group(
        GroupRequest("1", 0, 1, (0,), (("cpu", "gloo"),), timedelta(minutes=1))
    )
    module._update_process_group(other)
    world.learn(module)
    world.links.drop()
    assert sockets() == others
    world.meet()
    assert torch.equal(world.learn(module), torch.full((2, 4), 3.0))
