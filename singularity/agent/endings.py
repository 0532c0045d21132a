"""How the ranks of a node ended, and whose doing that was."""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping
from typing import Final

from singularity.primitives.messages import Start
from singularity.primitives.sharing import GIB

from .answers import Ended
from .runtime.sandbox import ExitRecord, Sandbox

_BY_INFRA: Final = frozenset({1, 2, 9, 15})  # HUP, INT, KILL, TERM: no program does that to itself

_KILLED: Final = 128 + 9  # as a shell would say it


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


def post_mortem(start: Start, ends: Mapping[int, ExitRecord], overran: Collection[int]) -> Ended:
    """What to say of a gang of which some ended badly: a rank that something killed explains the
    crashes of its peers, else the first to crash does. One that was killed because it `overran` its
    memory has crashed by its own doing."""
    for rank in sorted(r for r, e in ends.items() if r in overran and e.signal == signal.SIGKILL):
        most_bytes = start.share.memory_bytes if start.share else start.memory_bytes or 0
        reason = f"rank {rank} took more memory than its {most_bytes / GIB:.3g} GiB, and was killed"
        return Ended(start.job, start.incarnation, exit_code=_KILLED, reason=reason)
    for rank, record in sorted(ends.items()):
        if record.signal in _BY_INFRA:
            reason = f"rank {rank} was killed by signal {record.signal}"
            return Ended(start.job, start.incarnation, reason=reason)
    bad = [(r, e) for r, e in ends.items() if not ended_well(e)]
    rank, record = min(bad, key=lambda found: found[1].at_s)
    code = record.code if record.code is not None else 128 + (record.signal or 0)
    reason = f"rank {rank} ended with code {code}"
    return Ended(start.job, start.incarnation, exit_code=code, reason=reason)
