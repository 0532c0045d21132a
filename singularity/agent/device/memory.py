"""Who may take how much of a device's memory: pure values and their changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .kernels import QueueId


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes that one queue may hold, and holds. The cap is set aside whether it is used or not."""

    cap_bytes: int
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """The caps of all queues together never exceed the device, so that a queue which keeps to its
    own is never refused because of another."""

    total_bytes: int
    shares: Mapping[QueueId, Share] = field(default_factory=dict)

    @property
    def free_bytes(self) -> int:
        """Set aside for nobody."""
        return self.total_bytes - sum(share.cap_bytes for share in self.shares.values())

    def cap(self, queue: QueueId, cap_bytes: int) -> tuple[Memory, str]:
        """Set a queue's cap anew; "" or the reason why it stays as it was."""
        share = self.shares.get(queue, Share(0))
        if cap_bytes < share.held_bytes:
            return self, f"it holds {share.held_bytes} bytes, more than a cap of {cap_bytes}"
        if cap_bytes - share.cap_bytes > self.free_bytes:
            room = self.free_bytes + share.cap_bytes
            return self, f"{cap_bytes} bytes asked for, {room} of {self.total_bytes} are left"
        return self._with(queue, replace(share, cap_bytes=cap_bytes)), ""

    def take(self, queue: QueueId, count_bytes: int) -> Memory | None:
        """None: out of memory, as the driver would say; nothing has changed then."""
        share = self.shares.get(queue, Share(0))
        if count_bytes < 0 or share.held_bytes + count_bytes > share.cap_bytes:
            return None
        return self._with(queue, replace(share, held_bytes=share.held_bytes + count_bytes))

    def give(self, queue: QueueId, count_bytes: int) -> Memory:
        """What a queue gives back; never more than it holds."""
        share = self.shares.get(queue, Share(0))
        assert 0 <= count_bytes <= share.held_bytes, "freed what it does not hold"
        return self._with(queue, replace(share, held_bytes=share.held_bytes - count_bytes))

    def leave(self, queue: QueueId) -> Memory:
        """Its process is gone: the driver has taken everything back."""
        return replace(self, shares={q: s for q, s in self.shares.items() if q != queue})

    def _with(self, queue: QueueId, share: Share) -> Memory:
        return replace(self, shares={**self.shares, queue: share})
