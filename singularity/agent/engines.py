"""How ranks are made durable, behind one interface: by CRIU, or by their own program.

The third engine of a job's chain, restart, keeps nothing and so has nothing to do here: its ranks
are stopped, and start again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from singularity.primitives.messages import Cut, Start
from singularity.primitives.model import Engine, ShardImage

from .cooperative import Cooperative
from .dumping import Taking
from .images import Images


class Keeper(Protocol):
    """What one engine does on one node in a cut.

    held      its ranks must be at rest, at one step, before `save`; else they run meanwhile
    """

    @property
    def held(self) -> bool: ...

    def deadline_s(self, start: Start) -> float | None:
        """Seconds that the gang waits for it; None is as long as the node is set to."""

    def save(self, taking: Taking) -> ShardImage:
        """Durable on return. Raises CannotCarry when it would always fail so and another engine
        may not, CheckpointFailed or StoreFull else; the ranks run on."""


@dataclass(frozen=True, slots=True)
class Transparent:
    """Processes as they are, by CRIU with the interposer's help."""

    images: Images
    held: Final = True

    def deadline_s(self, start: Start) -> float | None:
        return None

    def save(self, taking: Taking) -> ShardImage:
        return self.images.save(taking.start, taking.ref, taking.step, taking.ranks, taking.seconds)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The same, but only those that leave the node, and into its memory."""

    images: Images
    stay: tuple[int, ...]
    held: Final = True

    def deadline_s(self, start: Start) -> float | None:
        return None

    def save(self, taking: Taking) -> ShardImage:
        leaving = {r: sandbox for r, sandbox in taking.ranks.items() if r not in self.stay}
        return self.images.hold(taking.start, taking.ref, taking.step, leaving, taking.seconds)


@dataclass(frozen=True, slots=True)
class SelfSaved:
    """What the program writes when it is signalled."""

    cooperative: Cooperative
    held: Final = False

    def deadline_s(self, start: Start) -> float | None:
        return start.cooperation.within_s if start.cooperation else None

    def save(self, taking: Taking) -> ShardImage:
        return self.cooperative.save(taking)


def keeper(images: Images, cooperative: Cooperative, cut: Cut) -> Keeper:
    if cut.engine is Engine.COOPERATIVE:
        return SelfSaved(cooperative)
    return HandedOver(images, cut.stay) if cut.handover else Transparent(images)
