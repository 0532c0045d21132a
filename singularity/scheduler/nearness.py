"""How far a place is from a job: what it would cost to be there, and which places come first.

All in seconds for each of its devices, over the hour that a job is taken to stay: its images have
to be carried, data that lie elsewhere slow it down, and money and carbon are worth device time.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import numpy.typing as npt

from singularity.primitives.model import Job
from singularity.primitives.nodes import ScopeKind

from .fleet.reference import Ranks
from .policy import Policy
from .price import transfer_s
from .snapshot import Codes, Snapshot

Floats = npt.NDArray[np.float64]
_FARTHEST: Final = 255
_STAY_H: Final = 1.0


def distance(snapshot: Snapshot, job: Job, policy: Policy) -> Ranks:
    """uint8[D] by domain: 1 where it is nearest, then the others in the order of what they cost;
    differences of less than a second are none."""
    names, region = snapshot.region_names, snapshot.fleet.layout.region
    away, home = np.zeros(len(names), dtype=np.bool_), home_of(snapshot, job)
    if len(home):
        away[:] = True
        away[home] = False
    if not (snapshot.tariffs or job.spec.data):  # nearly always
        return (away + np.uint8(1))[region]
    toll = np.where(away, max(1.0, transfer_s(job, policy)), 0.0)
    if job.spec.data:
        here = [any(fnmatchcase(name, glob) for glob in job.spec.data) for name in names]
        toll += np.where(here, 0.0, policy.data_away_slows * _STAY_H * 3600.0)
    _, found = np.unique(np.round(toll[region] + _tariffs(snapshot, policy)), return_inverse=True)
    ranks: Ranks = np.minimum(found + 1, _FARTHEST).astype(np.uint8)
    return ranks


def _tariffs(snapshot: Snapshot, policy: Policy) -> Floats:
    """float64[D] by domain: what devices cost there; a cluster's own price before its region's."""
    layout = snapshot.fleet.layout
    found = np.zeros(len(layout.region))
    for tariff in sorted(snapshot.tariffs, key=lambda t: t.scope.kind is ScopeKind.CLUSTER):
        by_region = tariff.scope.kind is ScopeKind.REGION
        names = snapshot.region_names if by_region else snapshot.cluster_names
        codes = layout.region if by_region else layout.cluster
        if tariff.scope.id in names:
            worth_s = tariff.cost * policy.cost_worth_s
            worth_s += tariff.carbon_g / 1000.0 * policy.carbon_kg_worth_s
            found[codes == names.index(tariff.scope.id)] = worth_s * _STAY_H
    return found


def home_of(snapshot: Snapshot, job: Job) -> Codes:
    """The regions where the job runs, or where its last images were made."""
    last = job.origin
    nodes = job.nodes or (frozenset(s.node for s in last.shards) if last else frozenset())
    rows = [snapshot.row[n] for n in sorted(nodes) if n in snapshot.row]
    return snapshot.region[rows]
