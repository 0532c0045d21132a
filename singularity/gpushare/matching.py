"""Whose container is it that kubelet prepares? It names a number of units, and no pod. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .shares import Claim

Given = tuple[str, str]  # a pod's UID, a container's name


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pod that was bound, and may not have been given its device for all `containers` yet: those
    that want memory, and how many units, in the order in which they are prepared. `since_ns` is
    when it was bound. `handed_over`: its annotations say that all was given."""

    claim: Claim
    containers: tuple[tuple[str, int], ...]
    since_ns: int
    handed_over: bool = False


def expected(
    waiting: Iterable[Waiting], given: Collection[Given], units: int
) -> tuple[Waiting, str] | None:
    """The pod that was bound first of those with a container of so many units that was given
    nothing yet, and that container. Of two of the same size either may be meant; what each is given
    is then the other's, and no device holds more than it was chosen for."""
    waiting = (pod for pod in waiting if not pod.handed_over)
    for pod in sorted(waiting, key=lambda w: (w.since_ns, w.claim.uid)):
        for name, wanted in pod.containers:
            if wanted == units and (pod.claim.uid, name) not in given:
                return pod, name
    return None


def served(pod: Waiting, given: Collection[Given]) -> bool:
    """Was each of its containers given its device?"""
    return all((pod.claim.uid, name) in given for name, _ in pod.containers)
