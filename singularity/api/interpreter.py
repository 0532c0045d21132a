"""How the interpreter works in a process of the control plane."""

from __future__ import annotations

import gc
import sys
from typing import Final

# Whoever has waited for the database has to get the interpreter back from a thread that computes;
# with Python's own 5 ms each question of a round would take that longer while estimates are made.
_SWITCH_S: Final = 0.0005
# A commit makes some hundred thousand values that stay until it is done, and none of them in a
# circle. Python looks for circles after each 700, and at all that there is after each quarter more.
_YOUNG_MOST: Final = 50_000


def prepare() -> None:
    """To be called once all is imported: none of that is looked at again."""
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MOST)
