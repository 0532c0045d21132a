"""Policies side by side on one trace: ours by the production code, the others on a plain pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

from singularity.primitives.errors import InvalidSpec
from singularity.scheduler.policy import Policy

from .inference import Inference
from .outcomes import Run
from .replay import Costs, Replay
from .rivals import RIVALS, compete
from .traces import Machines, Trace, fitted

OURS: Final = "singularity"


def policies(text: str) -> list[str]:
    """Names given with commas; "all" are all. Raises InvalidSpec with those that there are."""
    known = [OURS, *RIVALS]
    found = known if text == "all" else [name.strip() for name in text.split(",")]
    for name in found:
        if name not in known:
            raise InvalidSpec(f"there is no policy {name!r}; there are {', '.join(known)}")
    return found


def policy_of(settings: Sequence[str]) -> Policy:
    """The policy with what was given as name=value. Raises InvalidSpec."""
    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidSpec(f"{text!r} is no setting; write name=value, as quantum_s=300")
        found[name] = value
    return Policy().with_overrides(found)


def costs_of(trace: Trace, given: Mapping[str, float | None]) -> Costs:
    """What the trace says machines take, unless somebody said otherwise."""
    said = {name: value for name, value in given.items() if value is not None}
    known = {each.name for each in fields(Costs)}
    assert said.keys() <= known, said
    return replace(Costs(), **{**trace.costs, **said})


def play(
    names: Iterable[str],
    trace: Trace,
    fleet: Sequence[Machines],
    costs: Costs,
    policy: Policy,
) -> Iterable[Run]:
    """One run after the other. Raises Unplaceable where the fleet could never hold a job."""
    fleet = tuple(fleet) or trace.fleet
    trace = fitted(trace, fleet)
    devices = sum(m.nodes * m.devices for m in fleet)
    for name in names:
        if name == OURS:
            kind = Inference if trace.services else Replay
            yield kind(trace, fleet, policy, costs).run()
        elif trace.services:
            raise InvalidSpec(f"{name} knows no services, and the trace has some")
        elif len({m.device for m in fleet}) > 1:
            raise InvalidSpec(f"{name} knows one type of device only, and the fleet has several")
        else:
            yield compete(RIVALS[name], trace, devices, costs.restart_s)
