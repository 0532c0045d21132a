"""What came of comparing a checkpoint with the job that it is of. Frozen, pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Finding(StrEnum):
    IDENTICAL = "identical"
    DIFFERS = "differs"
    INCOMPARABLE = "incomparable"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What came of it. `steps` mini-batches were run after the one of the cut, `step`.

    `files` output files were compared with those of the job itself, `bytes` in all, and so were
    the hashes of the `parameters` ("identical" or "differ"; "" where they were not noted).
    `differs_at` is the mini-batch after which the first difference was written. `facts` tell what
    it was found with: engine, versions, processor.
    """

    finding: Finding
    reason: str
    incarnation: int = 0
    cut: int = 0
    step: int = 0
    steps: int = 0
    differs_at: int | None = None
    files: int = 0
    bytes: int = 0
    parameters: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    at_s: float = 0.0
    by: str = ""  # the job that found it
