"""fragments.py, compiled by numba. Imported only by shares.rater()."""

from __future__ import annotations

import numpy as np
from numba import njit

from .fragments import _RATE, _TIGHT, NOWHERE, Demand, Mix, Scale, States
from .layout import Ints


@njit(cache=True)
def _spoilt(
    host: Ints, compute: Ints, memory: Ints, place: tuple[int, int], mix: Mix, scale: Scale
) -> int:
    width, kind = place
    idle, found = 0, 0
    for device in range(width):
        idle += compute[device]
    if idle == 0:
        return 0
    for k in range(len(mix.weights)):
        cpu, devices = mix.demands[k, 0], mix.demands[k, 2]
        if devices == 0 or (mix.demands[k, 5] >> kind) & 1 == 0 or host[0] < cpu:
            found += mix.weights[k] * idle
            continue
        usable, useless = 0, 0
        for device in range(width):
            if compute[device] >= mix.demands[k, 3] and memory[device] >= mix.demands[k, 4]:
                usable += 1
            else:
                useless += compute[device]
        found += mix.weights[k] * (useless if usable >= devices else idle)
    if scale.stranded:
        found += mix.total * max(0, idle - host[0] * mix.per_cpu // _RATE)
        found += mix.total * max(0, idle - host[1] * mix.per_memory // _RATE)
    return found


@njit(cache=True)
def _graded(less: int, idle: int, mix: Mix, scale: Scale) -> int:
    if len(scale.grades) > 0:
        return int(np.searchsorted(scale.grades, less, side="right"))
    return less // (scale.step * mix.total) * _TIGHT - idle


@njit(cache=True)
def _rate(
    states: States, row: int, demand: Demand, mix: Mix, scale: Scale, spare: Ints
) -> tuple[int, int]:
    place = states.width[row], states.kind[row]
    compute, memory, after = spare[0], spare[1], spare[2]
    after[0] = states.host[row, 0] - demand.cpu_milli
    after[1] = states.host[row, 1] - demand.memory_mib
    if after[0] < 0 or after[1] < 0:
        return NOWHERE, -1
    if demand.devices > 0 and (demand.kinds >> place[1]) & 1 == 0:
        return NOWHERE, -1
    first, taken = -1, 0
    for device in range(place[0]):
        compute[device], memory[device] = states.compute[row, device], states.memory[row, device]
    before = _spoilt(states.host[row], compute, memory, place, mix, scale)
    best, chosen = NOWHERE, -1
    for device in range(place[0]):
        if compute[device] < demand.compute or memory[device] < demand.memory:
            continue
        if taken == demand.devices:
            break
        compute[device] -= demand.compute
        memory[device] -= demand.memory
        if demand.devices != 1:
            first, taken = device if taken == 0 else first, taken + 1
            continue
        score = _less(before, after, place, mix, scale, spare)
        if score > best:
            best, chosen = score, device
        compute[device] += demand.compute
        memory[device] += demand.memory
    if demand.devices != 1 and taken == demand.devices:
        return _less(before, after, place, mix, scale, spare), first
    return best, chosen


@njit(cache=True)
def _less(
    before: int, after: Ints, place: tuple[int, int], mix: Mix, scale: Scale, spare: Ints
) -> int:
    """The score of what is left in `spare`."""
    idle = 0
    for device in range(place[0]):
        idle += spare[0, device]
    less = before - _spoilt(after, spare[0], spare[1], place, mix, scale)
    return int(_graded(less, idle, mix, scale))


@njit(cache=True)
def rate_all(
    states: States, rows: Ints, demand: Demand, mix: Mix, scale: Scale
) -> tuple[Ints, Ints]:
    """fragments.rate of each of `rows`."""
    scores, devices = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    spare = np.empty((3, max(2, states.compute.shape[1])), dtype=np.int64)
    for i in range(len(rows)):
        scores[i], devices[i] = _rate(states, rows[i], demand, mix, scale, spare)
    return scores, devices
