"""How the ranks of a node ended, and whose doing that was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from singularity.primitives.messages import Start

from .core import Ended
from .runtime.sandbox import ExitRecord, Sandbox

_BY_INFRA: Final = frozenset({1, 2, 9, 15})  # HUP, INT, KILL, TERM: no program does that to itself


def endings(ranks: Mapping[int, Sandbox]) -> dict[int, ExitRecord]:
    """Of those that ended. A sandbox that is gone without a record was killed from outside."""
    found = {}
    for rank, sandbox in ranks.items():
        record = sandbox.exit()
        if record is None and not sandbox.alive():
            record = sandbox.exit() or ExitRecord(pid=0, code=None, signal=9, at_s=0.0)
        if record is not None:
            found[rank] = record
    return found


def ended_well(record: ExitRecord) -> bool:
    return record.code == 0


def post_mortem(start: Start, ends: Mapping[int, ExitRecord]) -> Ended:
    """What to say of a gang of which some ended badly: a rank that something killed explains the
    crashes of its peers, else the first to crash does."""
    for rank, record in sorted(ends.items()):
        if record.signal in _BY_INFRA:
            reason = f"rank {rank} was killed by signal {record.signal}"
            return Ended(start.job, start.incarnation, reason=reason)
    bad = [(r, e) for r, e in ends.items() if not ended_well(e)]
    rank, record = min(bad, key=lambda found: found[1].at_s)
    code = record.code if record.code is not None else 128 + (record.signal or 0)
    reason = f"rank {rank} ended with code {code}"
    return Ended(start.job, start.incarnation, exit_code=code, reason=reason)
