"""How much of a node is spoilt: the devices on it that typical work cannot use. Plain rules, in
integers so that what is compiled comes to the same; sharekernels.py is these, compiled.

Fragmentation is as in FGD (Weng et al., ATC '23): what a typical demand, drawn at random, expects
to find idle and cannot use. It does not see that a node may hold typical work now and still have
too few cores for all of its idle devices; so what is idle beyond what the cores and the memory left
can feed, at the average rate of all demand, is `stranded` and counts as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .layout import Ints

WHOLE: Final = 1000  # milli of a device
NOWHERE: Final = -(1 << 62)
_RATE: Final = 1 << 16  # rates are in 1 / 65536
_TIGHT: Final = 1 << 24  # more than the devices of one node have in milli


class Demand(NamedTuple):
    """What one piece of work takes. `devices` of them, of each `compute` and `memory` in milli, of
    a kind whose bit is set in `kinds`; `cpu_milli` and `memory_mib` of the host."""

    cpu_milli: int
    memory_mib: int
    devices: int
    compute: int
    memory: int
    kinds: int


class Mix(NamedTuple):
    """Typical work: `demands` int64[K, 6] and how often each is asked for, `weights` int64[K], of
    `total` in all; and the device milli that the average demand has for a cpu_milli, and for a
    memory_mib, in 1 / 65536."""

    demands: Ints
    weights: Ints
    total: int
    per_cpu: int
    per_memory: int


class Scale(NamedTuple):
    """From what becomes spoilt to a score. With `grades` int64[k], ascending, the score is how many
    of them are reached (in milli times Mix.total); else it is in steps of `step` milli, and of
    equal steps the one that leaves least of the node is better. `stranded` is 1 to count that."""

    grades: Ints
    step: int
    stranded: int


class States(NamedTuple):
    """Distinct states of nodes. host int64[C, 2] cpu_milli and memory_mib left; compute, memory
    int64[C, G] milli left of each device; width int64[C] devices; kind int64[C]."""

    host: Ints
    compute: Ints
    memory: Ints
    width: Ints
    kind: Ints


def mix_of(demands: Sequence[Demand], share: float = 0.95) -> Mix:
    """The most frequent of `demands` that make up `share` of all; rates are those of all. The
    memory of the host tells none from another: it is short through the rate alone."""
    alike = np.array(demands, dtype=np.int64).reshape(-1, 6)
    alike[:, 1] = 0
    kinds, counts = np.unique(alike, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[order]), share * len(demands))) + 1
    chosen = order[:enough]
    want = np.array([d for d in demands if d.devices], dtype=np.int64).reshape(-1, 6)
    milli = int((want[:, 2] * want[:, 3]).sum())
    per_cpu, per_memory = (_RATE * milli // max(1, int(want[:, i].sum())) for i in (0, 1))
    return Mix(kinds[chosen], counts[chosen], int(counts[chosen].sum()), per_cpu, per_memory)


def fragmentation(mix: Mix) -> Scale:
    """The published scale: 0 to 100, by a logistic of 1,000 milli; ties are ties."""
    at = [-1000.0 * np.log(100.0 / k - 1.0) for k in range(1, 100)]
    return Scale(np.ceil(np.array(at) * mix.total).astype(np.int64), 1, 0)


def balance() -> Scale:
    """Ours: steps of 5 milli, with what is stranded."""
    return Scale(np.empty(0, dtype=np.int64), 5, 1)


Host = tuple[int, int]
Devices = npt.NDArray[np.int64]


def spoilt(host: Host, left: tuple[Devices, Devices], kind: int, mix: Mix, scale: Scale) -> int:
    """Milli of the node that are no use to typical work, times Mix.total."""
    compute, memory = left
    idle, found = int(compute.sum()), 0
    if idle == 0:
        return 0
    for demand, weight in zip(mix.demands, mix.weights, strict=True):
        cpu, _, devices, milli, device_memory, kinds = (int(v) for v in demand)
        fits = (compute >= milli) & (memory >= device_memory)
        if devices and (kinds >> kind) & 1 and host[0] >= cpu and fits.sum() >= devices:
            found += int(weight) * int(compute[~fits].sum())
        else:
            found += int(weight) * idle
    if scale.stranded:
        for left_of_host, rate in zip(host, (mix.per_cpu, mix.per_memory), strict=True):
            found += mix.total * max(0, idle - left_of_host * rate // _RATE)
    return found


def rate(states: States, row: int, demand: Demand, mix: Mix, scale: Scale) -> tuple[int, int]:
    """How good it is to put `demand` on a node in state `row`: (NOWHERE, -1) if it does not fit;
    else a score, the more the better, and the first device it takes. One that takes several takes
    the first that fit."""
    width, kind = int(states.width[row]), int(states.kind[row])
    compute, memory = states.compute[row, :width], states.memory[row, :width]
    host = (int(states.host[row, 0]), int(states.host[row, 1]))
    after = host[0] - demand.cpu_milli, host[1] - demand.memory_mib
    fits = np.flatnonzero((compute >= demand.compute) & (memory >= demand.memory))
    if min(after) < 0 or (demand.devices and not (demand.kinds >> kind) & 1):
        return NOWHERE, -1
    if len(fits) < demand.devices:
        return NOWHERE, -1
    before = spoilt(host, (compute, memory), kind, mix, scale)
    best = NOWHERE, -1
    options = [fits[i : i + 1] for i in range(len(fits))]
    if demand.devices != 1:
        options = [fits[: demand.devices]]
    for chosen in options:
        left = compute.copy(), memory.copy()
        left[0][chosen] -= demand.compute
        left[1][chosen] -= demand.memory
        less = before - spoilt(after, left, kind, mix, scale)
        score = graded(less, int(left[0].sum()), mix, scale)
        if score > best[0]:
            best = score, int(chosen[0]) if len(chosen) else -1
    return best


def graded(less: int, idle: int, mix: Mix, scale: Scale) -> int:
    if len(scale.grades):
        return int(np.searchsorted(scale.grades, less, side="right"))
    return less // (scale.step * mix.total) * _TIGHT - idle
