"""Dynamic kernel padding: which best-effort blocks fit beside a real-time kernel at no cost to it.

Two constraints, both from profiles. Blocks of a fused grid take the larger of both footprints, so
(a) as many of them as the real-time kernel needs at once must still fit on a unit; and (b) a wave
of best-effort blocks must not outlast the real-time kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .kernels import UNIT, Footprint, Kernel, QueueId


@dataclass(frozen=True, slots=True)
class Candidate:
    """The kernel that a best-effort queue would run next, with `left` blocks to go."""

    queue: QueueId
    kernel: Kernel
    left: int


@dataclass(frozen=True, slots=True)
class Padding:
    queue: QueueId
    blocks: int


def occupancy(block: Footprint, unit: Footprint = UNIT) -> int:
    """Blocks of this footprint that one unit holds at once; 0 when not even one fits."""
    fits = [unit.blocks, unit.threads // max(block.threads, 1)]
    fits.append(unit.registers // max(block.registers, 1))
    if block.shared_bytes:
        fits.append(unit.shared_bytes // block.shared_bytes)
    return min(fits)


def fused(one: Footprint, other: Footprint) -> Footprint:
    """What a block of a grid takes that runs either kernel: the larger of each."""
    return Footprint(
        threads=max(one.threads, other.threads),
        registers=max(one.registers, other.registers),
        shared_bytes=max(one.shared_bytes, other.shared_bytes),
    )


def larger(rt: Kernel, be: Kernel) -> Footprint:
    """What a block of both takes, where nothing more is known."""
    return fused(rt.footprint, be.footprint)


def choose(
    rt: Kernel,
    candidates: Iterable[Candidate],
    units: int,
    unit: Footprint = UNIT,
    pair: Callable[[Kernel, Kernel], Footprint | None] = larger,
) -> Padding | None:
    """The first candidate that may be padded into `rt`, with how many blocks; None: nobody may.

    The blocks are those that the units free of `rt` run in the time that it takes:
    free units x waves x blocks a unit. `pair` says what a block of the fused grid takes, None
    where there is no such grid, or not yet.
    """
    layers = -(-rt.blocks // units)
    free = units - -(-rt.blocks // layers)
    if free <= 0:
        return None
    needed = min(layers, occupancy(rt.footprint, unit))
    for candidate in candidates:
        if not _depth(candidate.kernel.wave_us, rt.us):
            continue
        both = pair(rt, candidate.kernel)
        if both is None or (beside := occupancy(both, unit)) < needed:
            continue
        deep = _depth(candidate.kernel.wave_us[:beside], rt.us)
        if not deep:
            continue
        waves = max(1, int(rt.us // candidate.kernel.wave_us[deep - 1]))
        return Padding(candidate.queue, min(free * waves * deep, candidate.left))
    return None


def _depth(wave_us: tuple[float, ...], limit_us: float) -> int:
    """The most blocks a unit with which a wave is over in time; 0 when none is."""
    return max((k + 1 for k, us in enumerate(wave_us) if us <= limit_us), default=0)
