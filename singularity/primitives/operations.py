"""Who changes facts, and why. The plane does so itself where nobody asked for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class By:
    """`undoes` is the number of the operation that is taken back."""

    actor: str
    reason: str = ""
    undoes: int | None = None


PLANE = By("scheduler")
