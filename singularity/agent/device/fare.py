"""How one rank fares on a device that it shares: pure values and their changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from singularity.primitives.sharing import DeviceShare, short_s

_LEAST: Final = 0.001  # of the time; below that, a ratio of two small numbers says nothing


@dataclass(frozen=True, slots=True)
class Fare:
    """Seconds of the device. Since it was last told: how long that is, for how much of it the rank
    had work, and what it was given. In all: how long its work was kept waiting for that of others,
    and what it lacks of what its share promises."""

    wall_s: float = 0.0
    wanted_s: float = 0.0
    got_s: float = 0.0
    held_s: float = 0.0
    lost_s: float = 0.0

    def after(self, share: DeviceShare, wall_s: float, wanted_s: float, got_s: float) -> Fare:
        """And `wall_s` more, in which it had work for `wanted_s` and was given `got_s` of it."""
        return Fare(
            self.wall_s + wall_s,
            self.wanted_s + wanted_s,
            self.got_s + got_s,
            self.held_s + max(0.0, wanted_s - got_s),
            self.lost_s + short_s(share, wall_s, wanted_s, got_s),
        )

    def told(self) -> Fare:
        return replace(self, wall_s=0.0, wanted_s=0.0, got_s=0.0)

    @property
    def busy(self) -> float | None:
        """Of the device. None where nobody has looked. Work counts when it ends, so a part of it
        may have been done before."""
        return min(1.0, self.got_s / self.wall_s) if self.wall_s > 0.0 else None

    @property
    def slowdown(self) -> float | None:
        """How many times as long its work took as if it had run whenever it could, a thousand at
        most. None where it hardly had any."""
        if self.wanted_s <= 0.0 or self.wanted_s < _LEAST * self.wall_s:
            return None
        return self.wanted_s / max(self.got_s, _LEAST * self.wanted_s)
