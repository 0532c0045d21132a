"""Elastic slices: basic work on whatever part of a device nobody else uses just now.

A slice has all of what is left of its device, or its part of that, and at least `least` milli. What
is rigid is placed as if there were none. Where it lands, slices become smaller; those that cannot
go to where others can become smaller, and are evicted where nobody can. What was evicted comes back
before anything new begins.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from .shares import Shares

LEAST_MILLI: Final = 50
Device = tuple[int, int]  # node, and which of its devices


@dataclass(slots=True)
class Count:
    """What happened to slices, by how dear it is."""

    begun: int = 0
    resumed: int = 0
    resized: int = 0
    migrated: int = 0
    evicted: int = 0


@dataclass(slots=True)
class Slices:
    """Slices on the devices of `shares`. There is always more of such work than fits; a slice needs
    no core of its own and runs on those that are idle, which its node sees to."""

    shares: Shares
    least: int = LEAST_MILLI
    count: Count = field(default_factory=Count)
    _on: dict[Device, list[int]] = field(default_factory=lambda: defaultdict(list))
    _room: list[Device] = field(default_factory=list)
    _evicted: list[int] = field(default_factory=list)
    _next: int = 0
    _size: dict[Device, int] = field(default_factory=dict)

    def fill(self) -> None:
        """Everywhere: where nobody is, a slice begins."""
        for node in range(len(self.shares.width)):
            self.settle(node)

    def settle(self, node: int) -> None:
        """What is left on the node has changed: resize, move out or begin there."""
        homeless = []
        for number in range(int(self.shares.width[node])):
            device = node, number
            left, there = self.left(device), self._on[device]
            while len(there) * self.least > left:
                homeless.append(there.pop())
            if not there and left >= self.least:
                there.append(self._come())
            self._resize(device)
        for slice_ in homeless:
            self._move(slice_)

    def left(self, device: Device) -> int:
        """Milli of the device that the rigid leave, in compute and in memory."""
        return int(min(self.shares.compute[device], self.shares.memory[device]))

    def used(self) -> int:
        """Milli that slices have, in all."""
        return sum(self._size.values())

    def __len__(self) -> int:
        return sum(len(there) for there in self._on.values())

    def _come(self) -> int:
        if self._evicted:
            self.count.resumed += 1
            return self._evicted.pop()
        self.count.begun += 1
        self._next += 1
        return self._next

    def _resize(self, device: Device) -> None:
        """Give the slices there all that is left, in equal parts."""
        now = self.left(device) if self._on[device] else 0
        before = self._size.get(device, 0)
        if now != before:
            self.count.resized += len(self._on[device]) if now and before else 0
            self._size[device] = now
            self._note(device)

    def _spare(self, device: Device) -> int:
        """What the slices there could give at most."""
        there = self._on[device]
        return self.left(device) - len(there) * self.least if there else 0

    def _note(self, device: Device) -> None:
        if self._spare(device) >= self.least:
            heappush(self._room, (-device[0], -device[1]))

    def _move(self, slice_: int) -> None:
        """To the last device whose slices can give enough: of nodes alike, what is rigid takes the
        first, so it comes there last. What was noted and is not so any more is dropped."""
        while self._room:
            node, number = heappop(self._room)
            device = -node, -number
            if self._spare(device) < self.least:
                continue
            self.count.migrated += 1
            self.count.resized += len(self._on[device])
            self._on[device].append(slice_)
            self._note(device)
            return
        self.count.evicted += 1
        self._evicted.append(slice_)
