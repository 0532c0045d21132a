"""How long the applications of the workloads of Pollux take on how many GPUs.

From what their authors measured (github.com/petuum/adaptdl, branch osdi21-artifact, Apache-2.0,
simulator/traces): iterations to the end of training by batch size (validation-*.csv, last lines)
times the seconds of a step on so many GPUs, on as few nodes of 4 as hold them (placements.csv,
scalability.csv), with accumulation where a batch does not fit, as the artifact's own rule picks a
configuration. The sizes and batches that the workloads name come out of this table: they are those
that keep 50 to 80 % of the speed of one GPU for each.

Only the number of GPUs counts here, not how they lie, and a batch is chosen once for each size,
where Pollux chooses it anew as the noise of gradients grows. So it is a model of that system, and
what another scheduler does on it can only be compared with what it comes to for the policies that
were published, run on it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import exp, log
from typing import Final

Curve = tuple[tuple[int, float], ...]  # (GPUs, hours to the end)

# With the batch that is best for so many GPUs.
ADAPTIVE: Final[Mapping[str, Curve]] = {
    "bert": (
        *((1, 3.779), (2, 1.820), (4, 0.927), (8, 0.689), (12, 0.441), (16, 0.371)),
        *((24, 0.328), (32, 0.247)),
    ),
    "cifar10": ((1, 1.046), (4, 0.323), (8, 0.229), (12, 0.159), (16, 0.125)),
    "deepspeech2": ((1, 4.584), (4, 1.384), (8, 0.972), (12, 0.715), (16, 0.584)),
    "imagenet": (
        *((1, 147.9), (4, 41.94), (8, 22.12), (12, 15.29), (16, 12.24), (24, 8.778)),
        *((32, 7.280), (48, 5.244)),
    ),
    "ncf": ((1, 0.00917),),
    "yolov3": ((1, 9.372), (2, 5.189), (4, 3.575), (12, 2.588), (16, 1.990)),
}
# With the batch that the workloads name, which does not change; larger ones take several steps.
FIXED: Final[Mapping[tuple[str, int], Curve]] = {
    ("bert", 384): ((1, 3.88), (2, 1.85), (4, 0.93), (8, 0.69), (12, 0.44), (16, 0.37)),
    ("cifar10", 2048): ((1, 1.24), (4, 0.35), (8, 0.23)),
    ("cifar10", 4096): ((1, 1.57), (4, 0.44), (8, 0.25), (12, 0.16), (16, 0.12)),
    ("deepspeech2", 320): ((1, 6.39), (4, 1.65), (8, 0.97)),
    ("deepspeech2", 640): ((1, 8.03), (4, 2.05), (8, 1.08), (12, 0.71)),
    ("imagenet", 3200): (
        *((1, 172.7), (4, 46.78), (8, 23.68), (12, 15.97), (16, 12.24), (24, 8.78)),
    ),
    ("imagenet", 6400): (
        *((1, 196.5), (4, 53.19), (8, 26.9), (12, 17.6), (16, 13.88), (24, 9.41)),
        *((32, 7.28), (48, 5.24)),
    ),
    ("ncf", 32768): ((1, 0.00917),),
    ("yolov3", 64): ((1, 10.49), (2, 5.38), (4, 3.57)),
}


def hours(curve: Curve, gpus: float) -> float:
    """On so many; between two sizes that were measured by the power that leads from one to the
    next. Beyond the last no faster."""
    least, _ = curve[0]
    for (few, long), (many, short) in pairwise(curve):
        if gpus <= many:
            power = log(short / long) / log(many / few)
            return long * exp(power * log(max(gpus, least) / few))
    return curve[-1][1]
