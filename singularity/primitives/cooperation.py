"""Programs that write their own checkpoints. Frozen, pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cooperation:
    """How a program is asked to save itself, and where it then finds what it saved.

    `signal` goes to every rank. `paths` are absolute; "{rank}" in one stands for the number of the
    rank that writes it, and one without is written by rank 0. All must be there, newer than the
    signal and closed, within `within_s`.
    """

    signal: str
    paths: tuple[str, ...]
    within_s: float = 120.0
