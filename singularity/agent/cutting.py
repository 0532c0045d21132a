"""One node's part in a cut, against real control pages: look, obey the lead, dump, finish.

The loop is level-triggered. Each round looks at the pages, tells the lead (View), does what it
orders (Order), and waits a few milliseconds. A round repeated after a restart of the agent finds
everything it needs in the pages and in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from singularity.primitives.errors import Unavailable
from singularity.primitives.model import Unable
from singularity.primitives.nodes import NodeId

from .barrier import Dumped, Order, Verdict, View
from .closure import Stand
from .gang import decided
from .interposer import deals
from .interposer.page import Clock, Page, State
from .stall import Who, named

_SETTLE_S: Final = 0.001  # a rank's store of `step` is visible long before this has passed
_ROUND_S: Final = 0.004
_AWAY_S: Final = 0.012  # until a lead that does not answer, or not yet, is asked again
_GONE: Final = (State.NONE, State.EXITED)


class Broken(Exception):
    """A rank ended, or the job was killed, in the middle of the cut."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the cut ended here; `step` is where the ranks are parked, 0 if they are not."""

    order: Order
    step: int


class Dumper(Protocol):
    """Makes this node's ranks durable, once, in the background of the loop."""

    def begin(self, moment: int) -> None:
        """Called when every rank is parked (or free to be dumped where it is). `moment` is what the
        gang calls it, the same on all nodes."""

    def moment(self) -> int:
        """How far the ranks of this node are, in all their lives."""

    def state(self) -> tuple[Dumped, str]:
        """Whether the images are durable, with the reason when they will never be."""

    @property
    def unable(self) -> Unable | None:
        """Whether it would always fail so."""


Ask = Callable[[View], Order]


class CutLoop:
    """`pages` finds those that must be at rest on this node, each time it looks, for a rank may
    start some; `ask` raises Unavailable while the lead is away."""

    def __init__(
        self,
        node: NodeId,
        pages: Callable[[], Mapping[Who, Page]],
        ask: Ask,
        dumper: Dumper,
        check: Callable[[], None],
    ) -> None:
        self._node, self._find = node, pages
        self._pages = pages()
        self._ask, self._dumper, self._check = ask, dumper, check
        self._order = Order()
        self._sure: set[Who] = set()  # ranks that cannot be past the stop
        self._told: set[Who] = set()
        self._begun = False

    def run(self, *, free: bool) -> Outcome:
        """Until the lead has decided and the ranks are all parked or all running.

        `free` ranks have no boundary to hold at: they are dumped where they are. `check` raises
        Broken when going on is pointless.
        """
        while True:
            self._check()
            view = self._look(free=free)
            try:
                self._obey(self._ask(view))
            except Unavailable:
                time.sleep(_AWAY_S)
                continue
            if decided(self._order) and self._dump_ended() and (free or self._came_to_rest()):
                return Outcome(self._order, 0 if free else self._parked())
            time.sleep(_ROUND_S)

    def _look(self, *, free: bool) -> View:
        self._pages = self._find()
        parked = 0 if free else self._parked()
        gathering = self._order.verdict is Verdict.GATHER
        if (parked or free) and gathering and not self._begun and not self._unheard():
            self._begin()
        dumped, reason = self._dumper.state() if self._begun else (Dumped.NOT_YET, "")
        unable = self._dumper.unable if dumped is Dumped.FAILED else None
        if not free and self._order.verdict is Verdict.GATHER and not self._begun:
            reason = self._who_is_late()
            states = {p.state for p in self._pages.values()}
            if states & set(_GONE):
                dumped = Dumped.FAILED
                unable = Unable.JOB if State.NONE in states else None
            elif untold := self._untold():
                reason, dumped, unable = untold, Dumped.FAILED, Unable.JOB
        return View(
            node=self._node,
            step=max((p.step for p in self._pages.values()), default=0),
            moment=self._dumper.moment(),
            clock=self._clock(),
            stands=() if free else self._stands(),
            agreed=self._agreed(),
            held=self._held(),
            parked=parked,
            free=free,
            dumped=dumped,
            reason=reason,
            unable=unable,
        )

    def _begin(self) -> None:
        self._begun = True
        self._dumper.begin(self._order.commit if self._order.stops else self._dumper.moment())

    def _unheard(self) -> bool:
        """Are our ranks parked each at a place of its own, by an order that only an earlier life of
        this agent has heard? The lead says again what the moment is called."""
        return not self._order.stops and any(page.settle for page in self._pages.values())

    def _clock(self) -> int:
        """By what all of our ranks can be held."""
        return min((page.clock for page in self._pages.values()), default=Clock.NONE)

    def _stands(self) -> tuple[Stand, ...]:
        """Each rank as it is in one instant, where each has a place of its own, or if messages may
        be under way between them."""
        clock = self._clock()
        if clock == Clock.NONE:
            return ()
        found = tuple(_stand(named(who), page) for who, page in self._pages.items())
        told = clock == Clock.CROSSINGS or self._order.stops
        if told or any(not deal.collective for stand in found for deal, _ in stand.begun):
            return found
        return ()

    def _untold(self) -> str:
        """Why nobody can tell where our ranks are by what they did with others."""
        if self._clock() == Clock.CROSSINGS or self._order.stops:
            for who, page in self._pages.items():
                if reason := deals.untold(page):
                    return (
                        f"{named(who)} {reason}, so that no place can be found where all can hold"
                    )
        return ""

    def _who_is_late(self) -> str:
        """The first rank that is the reason why not all hold, and what there is to say of it."""
        for who, page in self._pages.items():
            rank = named(who)
            match page.state:
                case State.NONE:
                    return f"{rank} is not seen to use torch: it has no boundary to hold at"
                case State.EXITED:
                    return f"{rank} has ended"
                case State.HOLDING | State.PARKED:
                    continue
                case _ if page.clock is Clock.NONE:
                    return f"{rank} came to no mini-batch, and does nothing with other ranks"
                case _:
                    return f"{rank} came to no further boundary after its {page.count}th"
        return ""

    def _obey(self, order: Order) -> None:
        if not order.stop and order.verdict is Verdict.GATHER:
            return  # a lead that has only begun; what it said in an earlier life stands
        now, before = order, self._order
        if (now.stop, now.commit, now.stops) != (before.stop, before.commit, before.stops):
            self._sure.clear()
            self._told = set()
        news = [who for who in self._pages if who not in self._told]
        if news and order.verdict is not Verdict.FINISH:  # then all have parked, maybe gone on
            for who in news:
                write(self._pages[who], *order.of(named(who)), own=bool(order.stops))
            time.sleep(_SETTLE_S)
        self._told.update(news)
        self._order = order

    def _agreed(self) -> int:
        """The stop, once no rank of ours can be past it. A rank that was seen before the stop
        when it could already read it stays sure, also in the instant when it arrives there."""
        stop = self._order.stop
        if not stop or self._order.stops:
            return 0
        self._sure |= {r for r, page in self._pages.items() if page.acknowledges(stop)}
        return stop if self._sure >= set(self._pages) else 0

    def _held(self) -> int:
        """The stop, when every rank of ours waits at it."""
        if self._order.stops or self._clock() != Clock.STEPS:
            return 0
        stop, at_rest = self._order.stop, (State.HOLDING, State.PARKED)
        held = all(p.step == stop and p.state in at_rest for p in self._pages.values())
        return stop if held else 0

    def _parked(self) -> int:
        """How far the furthest rank is when all are parked; where they train, that is equal in all
        of the gang by the barrier."""
        pages = list(self._pages.values())
        if any(page.state is not State.PARKED for page in pages):
            return 0
        return max((page.step for page in pages), default=0) or pages[0].count

    def _came_to_rest(self) -> bool:
        """After a decision: parked everywhere if a stop was committed, else running again."""
        if self._order.commit and not self._went_on():
            return self._parked() > 0
        for page in self._pages.values():
            page.stop = page.halt = 0
        return True

    def _went_on(self) -> bool:
        """Did an earlier life of this agent, which heard the decision too, already wake them?"""
        if self._order.verdict is Verdict.FINISH and self._parked() == 0:
            return True
        own = bool(self._order.stops)
        return any(
            page.state is State.REBUILDING
            or (page.crossings if own else page.count) > self._order.of(named(who))[1]
            for who, page in self._pages.items()
        )

    def _dump_ended(self) -> bool:
        """A cut that finished in an earlier life of this agent is dumped again in this one, for
        only who made the image can name it."""
        begun_only = self._begun and self._dumper.state()[0] is Dumped.NOT_YET
        return self._order.verdict is not Verdict.FINISH or not begun_only


def _stand(who: str, page: Page) -> Stand:
    """A rank that holds at the same count before and after has begun nothing meanwhile."""
    at_rest = (State.HOLDING, State.PARKED)
    before = page.state in at_rest, page.crossings
    begun = deals.counts(page)
    holding = before[0] and before == (page.state in at_rest, page.crossings)
    return Stand(who, before[1], holding, begun or ())


def write(page: Page, stop: int, commit: int, *, own: bool) -> None:
    """Where the rank shall hold and park: at mini-batches, or by numbers of its `own`. What it
    holds by now is taken away last, so that it does not go on in between."""
    if own:
        page.halt, page.settle = stop, commit
        page.stop = page.commit = 0
    else:
        page.stop, page.commit = stop, commit
        page.halt = page.settle = 0
