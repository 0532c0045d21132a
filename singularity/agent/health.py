"""Does a replica answer? Pure: what is seen of it and when, in; a verdict, out."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds a replica may take for its first good answer, and between two later on."""

    ready_s: float
    silent_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """`ready` since it first answered; heard, or begun, at `heard_s`."""

    heard_s: float
    ready: bool = False


def answered(health: Health, now_s: float) -> Health:
    return replace(health, heard_s=now_s, ready=True)


def excused(health: Health, now_s: float) -> Health:
    """It was held back until now: its time starts again."""
    return replace(health, heard_s=now_s)


def hung(health: Health, patience: Patience, path: str, now_s: float) -> str:
    """What says that it will not answer any more; "" while nothing does."""
    limit_s = patience.silent_s if health.ready else patience.ready_s
    if now_s - health.heard_s <= limit_s:
        return ""
    if health.ready:
        return f"GET {path} has had no good answer for more than {limit_s:g} s"
    return (
        f"GET {path} had no good answer in the first {limit_s:g} s; does the program listen on "
        f"the port in its environment, PORT?"
    )
