"""Other slots for ranks that run: all follow at their next mini-batch boundary, or none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from singularity.primitives.messages import Reslot, Start

from .answers import Resized
from .interposer.page import Page
from .layout import slot

_POLL_S: Final = 0.003


def given(start: Start, wanted: Reslot) -> Start:
    """`start`, with those slots in force."""
    return start.model_copy(update={"slots": wanted.slots, "devices": wanted.devices})


def turn(
    before: Start,
    wanted: Reslot,
    pages: Mapping[int, Page],
    check: Callable[[], None],
    limit_s: float,
    fixed: str = "",
) -> Resized:
    """Tell the ranks their slots, and wait until all follow; a `reason` says who does not, and the
    old ones are in force again. `check` raises where going on is pointless, and `fixed` says why
    they cannot follow."""
    if fixed:
        return Resized(before.job, before.incarnation, wanted.resize, fixed)
    began_s, stuck = time.monotonic(), ""
    _write(given(before, wanted), pages)
    while late := [rank for rank, page in pages.items() if page.turn != page.slot]:
        check()
        if time.monotonic() > began_s + limit_s:
            stuck = f"rank {late[0]} came to no mini-batch boundary"
            _write(before, pages)
            break
        time.sleep(_POLL_S)
    seconds = {} if stuck else {"resize": time.monotonic() - began_s}
    return Resized(before.job, before.incarnation, wanted.resize, stuck, seconds)


def _write(start: Start, pages: Mapping[int, Page]) -> None:
    for rank, page in pages.items():
        page.slot = slot(start, rank)
