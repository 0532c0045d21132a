"""What a rank does with others, counted on its control page.

A deal is a collective of one group, or a message from one member to another. Each side counts how
many it has begun; where all counts are equal, everything that was begun can be finished, and the
ranks are at one place in their programs (agent/closure.py). The table begins at 2048 on the page:

    offset  bytes  writer  meaning
    0       8      rank    entries that follow; more than fit: it could not count all of them
    8+24n   4      rank    group: a digest of its name, the same on every member
    12+24n  4      rank    tag of messages, 0 of collectives
    16+24n  4      rank    source: rank in the group of who sends a message; our own for collectives
    20+24n  4      rank    target: of who receives it; NOBODY for collectives
    24+24n  8      rank    deals of this kind that were begun
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

from .page import TABLE_WORDS, Page

NOBODY: Final = 0xFFFF_FFFF  # the target of a collective
ANYBODY: Final = 0xFFFF_FFFE  # the source of a message that is taken from whoever sends first
_LOW: Final = 0xFFFF_FFFF
_WORDS: Final = 3  # of 8 bytes an entry
_MOST: Final = (TABLE_WORDS - 1) // _WORDS  # entries that a page has room for


class Deal(NamedTuple):
    """A kind of deal; see the module."""

    group: int
    tag: int
    source: int
    target: int

    @property
    def collective(self) -> bool:
        return self.target == NOBODY


Counts = tuple[tuple[Deal, int], ...]


def untold(page: Page) -> str:
    """Why the counts of that rank do not say all; "" when they do."""
    if (found := counts(page)) is None:
        return f"has more groups and partners than the {_MOST} that can be counted"
    if any(deal.source == ANYBODY for deal, _ in found):
        return "takes messages from whoever sends first"
    return ""


def group_number(key: str, members: tuple[int, ...]) -> int:
    return zlib.crc32(repr((key, members)).encode())


class Tally:
    """This rank's own counts. Begun before `begin` returns: whoever waits for us can see it."""

    def __init__(self) -> None:
        self._places: dict[Deal, int] = {}
        self._begun: list[int] = []

    def begin(self, page: Page, deal: Deal, times: int = 1) -> None:
        """`times` is 0 to enter a deal that may come: it is known then who takes part in it."""
        place = self._places.get(deal)
        if place is None:
            place = self._places[deal] = len(self._begun)
            self._begun.append(0)
            self._write(page, place, deal)
        self._begun[place] = begun = self._begun[place] + times
        if place < _MOST:
            page.table[1 + _WORDS * place + 2] = begun

    def publish(self, page: Page) -> None:
        """All of it, onto a page that may be a new one."""
        for deal, place in self._places.items():
            self._write(page, place, deal)
        page.table[0] = len(self._begun)

    def _write(self, page: Page, place: int, deal: Deal) -> None:
        if place < _MOST:
            at = 1 + _WORDS * place
            page.table[at] = deal.group & _LOW | (deal.tag & _LOW) << 32
            page.table[at + 1] = deal.source | deal.target << 32
            page.table[at + 2] = self._begun[place]
        page.table[0] = place + 1


def counts(page: Page) -> Counts | None:
    """What the rank of `page` has begun; None where it could not count all."""
    entries = page.table[0]
    if entries > _MOST:
        return None
    found = []
    for at in range(1, 1 + _WORDS * entries, _WORDS):
        kind, ends, begun = page.table[at : at + _WORDS]
        deal = Deal(kind & _LOW, kind >> 32, ends & _LOW, ends >> 32)
        found.append((deal, begun))
    return tuple(found)
