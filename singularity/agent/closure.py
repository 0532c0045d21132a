"""Where a gang may stop in which not all count mini-batches: pure functions of what was begun.

Ranks meet in groups and in pairs, some of which never have to do with each other, so no one number
says where all are: each rank has a stop of its own. At the first word of a cut each holds before
whatever it would begin next with another, or at the end of its mini-batch. That is no consistent
cut yet: one may have begun what another has not come to. Whoever is behind so goes on, until it has
begun as much; what it begins on its way comes before something that was begun already, so nobody is
chased further than that. When nobody is behind, and all hold, everything that was begun can be
finished with all at rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .interposer.deals import ANYBODY, Counts, Deal


@dataclass(frozen=True, slots=True)
class Stand:
    """One rank, as it was found in one instant. `count` is how many places it has come to at which
    it could be held: before what it does with others, and at the end of mini-batches; while it is
    `holding` it has not begun what follows the last of them."""

    who: str
    count: int
    holding: bool
    begun: Counts


def behind(stands: Iterable[Stand], *, messages_only: bool = False) -> dict[str, int]:
    """Who has not yet begun what others have begun with it: how many things, at least."""
    members: dict[tuple[int, int], str] = {}
    counts: dict[str, Mapping[Deal, int]] = {}
    for stand in stands:
        counts[stand.who] = dict(stand.begun)
        for deal in counts[stand.who]:
            if deal.collective:
                members[deal.group, deal.source] = stand.who
    sides: dict[Deal, dict[str, int]] = defaultdict(dict)
    for who, begun in counts.items():
        for deal, times in begun.items():
            if deal.collective:
                if not messages_only:
                    sides[deal._replace(source=0)][who] = times
                continue
            sides[deal][who] = times
            for end in (deal.source, deal.target):
                if (other := members.get((deal.group, end))) is not None:
                    sides[deal].setdefault(other, 0)
    found: dict[str, int] = defaultdict(int)
    for begun_by in sides.values():
        most = max(begun_by.values())
        for who, times in begun_by.items():
            found[who] += most - times
    return {who: missing for who, missing in found.items() if missing}


def stops(stands: Iterable[Stand], before: Mapping[str, int]) -> dict[str, int]:
    """At what count each shall hold, where it was told `before` at which. Once is enough to go by:
    told again, it is told the same."""
    known = {stand.who: stand for stand in stands}
    missing = behind(known.values())
    found = {who: max(before.get(who, 1), 1) for who in known}
    for who, times in missing.items():
        if known[who].holding:
            found[who] = max(found[who], known[who].count + times)
    return found


def under_way(stands: Iterable[Stand]) -> str:
    """A message between ranks that all stand behind the same mini-batch, which one has begun and
    the other has not; "" for none. Of who takes messages from anybody nothing is known."""
    known = tuple(stands)
    deals = {deal for stand in known for deal, _ in stand.begun}
    if any(deal.source == ANYBODY for deal in deals):
        return ""
    late = sorted(behind(known, messages_only=True))
    return f"{late[0]} has yet to begin its side of a message, at every boundary" if late else ""


def at_rest(stands: Iterable[Stand]) -> bool:
    """Do all hold, and at one place?"""
    known = tuple(stands)
    return all(stand.holding for stand in known) and not behind(known)
