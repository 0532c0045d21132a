"""What react() asks the hands of a node to do. They answer with a Done (core.py)."""

from __future__ import annotations

from dataclasses import dataclass

from singularity.primitives.messages import Cut, Reslot, Start
from singularity.primitives.model import JobId


@dataclass(frozen=True, slots=True)
class Launch:
    """Start or restore the ranks. Answered by Started, Refused or Ended."""

    start: Start


@dataclass(frozen=True, slots=True)
class TakeCut:
    """Take part in a cut of the gang. Answered by Saved or CutFailed, or Ended."""

    start: Start
    cut: Cut


@dataclass(frozen=True, slots=True)
class TakeSlots:
    """Let the ranks share devices by other slots. Answered by Resized, or Ended."""

    start: Start
    reslot: Reslot


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill whatever there is of a job's ranks, in any stage; with `stacks`, keep first where each
    of them stands. `grace_s` and `warm` as in messages.Stop. Answered by Ended."""

    job: JobId
    incarnation: int
    stacks: bool = False
    grace_s: float | None = None
    warm: bool = False


@dataclass(frozen=True, slots=True)
class LetGo:
    """Free what is kept here of lives of the job up to `incarnation`, for others to begin from:
    they have, or never will. Not answered; mostly there is nothing."""

    job: JobId
    incarnation: int


Effect = Launch | TakeCut | TakeSlots | Kill | LetGo
