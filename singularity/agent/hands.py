"""One job's ranks on this node, from launch to end: a thread with an inbox of effects.

Effects of one job are done one after another; a kill cuts in between. Whatever goes wrong in a
dump leaves the ranks running; whatever goes wrong in a start leaves nothing behind.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from singularity.primitives.errors import (
    CheckpointFailed,
    HandFailed,
    ImageCorrupt,
    ImageUnfit,
    RestoreFailed,
)
from singularity.primitives.messages import Cut, Reslot, Start

from . import reslotting, stacks
from .answers import CutFailed, Done, Ended, Hung, Refused, Saved, Started
from .barrier import Verdict
from .cooperative import begins_from_files
from .cutting import Broken, CutLoop
from .dumping import Dumping
from .effects import Effect, Kill, Launch, TakeCut, TakeSlots
from .endings import ended_well, endings, post_mortem
from .engines import keeper
from .families import Families, forget_page, forget_semaphores
from .gang import CutRef
from .images import Fetched
from .interposer.page import Page, Rendezvous, State
from .layout import generation, slot
from .runtime.sandbox import Sandbox
from .sharing import Sharer, seat_of
from .stall import Who
from .tools import Answer, Tools

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.05
_GRACE_S: Final = 0.4  # between the first crash and the verdict on what caused it
_POLL_S: Final = 0.003


class Hands(threading.Thread):
    def __init__(self, tools: Tools, start: Start, answer: Answer) -> None:
        super().__init__(name=f"hands-{start.job}", daemon=True)
        self.start_command = start
        self.ended = False
        self._tools, self._answer = tools, answer
        self._inbox: queue.Queue[Effect] = queue.Queue()
        self._killed = threading.Event()
        self._abandoned = threading.Event()
        self._ranks: dict[int, Sandbox] = {}
        self._pages: dict[int, Page] = {}
        self._families = Families(self._pages, self._ranks, alone=start.world == 1)
        self._pool = ThreadPoolExecutor(max_workers=max(2, len(start.ranks)))
        self._overseer = stacks.Overseer(start.hang_after_s, tools.first_step_s)
        self._order = Kill(start.job, start.incarnation)
        self._before = start.origin.step if start.origin and begins_from_files(start) else 0
        self._note_at = 0  # the step at which the ranks shall note the hash of their parameters

    # -- what the executor calls -----------------------------------------------------------------

    def adopt(self, ranks: Mapping[int, Sandbox]) -> None:
        """Take over ranks that outlived an earlier agent. Before the thread starts."""
        self._ranks.update(ranks)
        self._pages.update({r: Page(self._page_path(r)) for r in ranks})
        self._families.close(False)
        if any(p.step for p in self._families.held().values()):  # their first step is behind them
            self._overseer = stacks.Overseer(self.start_command.hang_after_s, 0.0)

    def put(self, effect: Effect) -> None:
        self._inbox.put(effect)

    def kill(self, order: Kill) -> None:
        """Stop whatever is going on and kill the ranks."""
        self._order = order
        self._killed.set()

    def abandon(self) -> None:
        """Stop working without touching the ranks, as if the agent had died."""
        self._abandoned.set()

    def step(self) -> int:
        """How far the furthest rank here is: in mini-batches, if one of them trains. One that began
        from its own files counts from nought again: what was before is added."""
        pages = self._families.held().values()
        trained = max((p.step for p in pages), default=0)
        return self._before + (trained or max((p.count for p in pages), default=0))

    def sharers(self) -> Iterator[Sharer]:
        """Ranks that have shares of devices."""
        for rank, sandbox in list(self._ranks.items()):
            if (seat := seat_of(self.start_command, rank)) is not None:
                yield Sharer(self.start_command, rank, *seat, sandbox)

    def freeze(self) -> None:
        self._overseer.frozen = True
        for sandbox in list(self._ranks.values()):
            sandbox.freeze()

    def thaw(self) -> None:
        for sandbox in list(self._ranks.values()):
            sandbox.thaw()
        self._overseer.frozen = False

    # -- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        start = self.start_command
        ended: Done | None = None
        while ended is None:
            if self._abandoned.is_set():
                return
            if self._killed.is_set():
                waits = self._part()
                if self._abandoned.is_set():
                    return
                ended = Ended(start.job, start.incarnation, killed=True, warm=waits)
                break
            try:
                effect = self._inbox.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                ended = self._look()
                continue
            try:
                ended = self._perform(effect)
            except Broken:
                ended = None  # the next look says what became of the ranks
            except Exception as error:
                log.exception("the ranks of %s are given up", start.job)
                reason = f"{type(error).__name__}: {error}"
                ended = Ended(start.job, start.incarnation, reason=reason)
        self._finish(ended)

    def _perform(self, effect: Effect) -> Done | None:
        match effect:
            case Launch():
                return self._launch()
            case TakeCut():
                return self._take_cut(effect.cut)
            case TakeSlots():
                self._take_slots(effect.reslot)
                return None
        raise AssertionError(effect)

    def _part(self) -> bool:
        """Before the ranks are killed. True: they are not, but wait for the job's next life."""
        if self._order.stacks:
            self._keep_stacks("stopped with its gang, of which a rank hangs")
        return False

    def _finish(self, ended: Done) -> None:
        """The journal first, so that a crash here ends in the same place; then leave nothing
        behind; then tell: devices must be free when the control plane hears of it."""
        self.ended = True
        self._answer(ended, self._clear)
        for rank in self.start_command.ranks if isinstance(ended, Ended) else ():
            forget_semaphores(self._page_path(rank))
        self._pool.shutdown(wait=False)

    def _clear(self) -> None:
        """All at once, and as far as it can be: whoever is left does nothing any more."""
        gone = {rank: self._pool.submit(s.remove) for rank, s in self._ranks.items()}
        for rank, removed in gone.items():
            if (error := removed.exception()) is not None:
                log.error("left to the kernel: %s", error)
            self._tools.release(self.start_command, rank)
            forget_page(self._page_path(rank))
        self._ranks.clear()

    # -- starting --------------------------------------------------------------------------------

    def _launch(self) -> Done | None:
        start, seconds = self.start_command, dict[str, float]()
        try:
            if start.origin is None or begins_from_files(start):
                self._fresh(seconds)
            else:
                self._restore(seconds)
        except Broken:
            return None  # killed while starting
        except HandFailed as error:
            kind = isinstance(error, ImageCorrupt), isinstance(error, ImageUnfit)
            return Refused(start.job, start.incarnation, error.detail, *kind)
        step = start.origin.step if start.origin else 0
        done = Started(start.job, start.incarnation, step, seconds, self._tools.images.obstacle)
        self._answer(done, nothing)
        return None

    def _fresh(self, seconds: dict[str, float]) -> None:
        began_s = time.monotonic()
        self._tools.layout.make(self.start_command)
        if begins_from_files(self.start_command):
            self._tools.cooperative.put_back(self.start_command)
            seconds["fetch"], began_s = time.monotonic() - began_s, time.monotonic()
        self._each(self._fresh_rank)
        seconds["launch"] = time.monotonic() - began_s

    def _fresh_rank(self, rank: int) -> None:
        path = self._page_path(rank)
        forget_page(path)  # an earlier rank that still maps it keeps its own
        page = self._pages[rank] = Page.create(path)
        sandbox = self._tools.create(self.start_command, rank, None)
        self._ranks[rank] = sandbox
        page.slot = slot(self.start_command, rank)
        page.rendezvous = self._rendezvous(rank, cut=0)
        self._tools.launch(sandbox, self.start_command, rank)

    def _restore(self, seconds: dict[str, float]) -> None:
        start, images = self.start_command, self._tools.images
        assert start.origin is not None
        self._tools.layout.make(start)
        began_s = time.monotonic()
        with images.fetched(start) as found:
            seconds["fetch"] = time.monotonic() - began_s
            began_s = time.monotonic()
            view = self._view(found)

            def revive(rank: int) -> None:
                if rank in found.standing:
                    self._ranks[rank] = found.adopt(rank)
                else:
                    sandbox = self._ranks[rank] = self._tools.create(start, rank, view)
                    found.restore(rank, sandbox)
                self._pages[rank] = Page(self._page_path(rank))

            self._each(revive)
        self._before = start.origin.step - self.step()
        seconds["restore"] = time.monotonic() - began_s
        began_s = time.monotonic()
        self._resume(self._families.parked(), cut=0)
        seconds["reconnect"] = time.monotonic() - began_s

    def _view(self, _found: Fetched) -> int | None:
        """The process whose files restored ranks shall see; None for the node's."""
        return None

    def _rendezvous(self, rank: int, cut: int) -> Rendezvous:
        start = self.start_command
        return Rendezvous(
            store=str(self._tools.layout.rendezvous(start, cut)),
            generation=generation(start, cut),
            ip=self._ranks[rank].address,
            note=self._note_at,
        )

    def _resume(self, parked: Mapping[Who, Page], cut: int) -> None:
        """Wake parked ranks and wait until the gang has met again."""
        wanted = generation(self.start_command, cut)
        self._families.move(lambda rank: self._rendezvous(rank, cut))
        for who, page in parked.items():
            rank = who if isinstance(who, int) else self.start_command.ranks[0]
            page.slot = slot(self.start_command, rank)
            page.resume(self._rendezvous(rank, cut), self._first_stop())
        self._families.close(False)
        deadline_s = time.monotonic() + self._tools.reconnect_deadline_s
        waiting = list(parked.values())
        while any(p.generation != wanted or p.state is State.REBUILDING for p in waiting):
            self._check()
            if time.monotonic() > deadline_s:
                raise RestoreFailed("the ranks did not find each other again; the gang restarts")
            time.sleep(_POLL_S)

    def _first_stop(self) -> int:
        """Where ranks that are woken shall hold; 0 for nowhere."""
        return 0

    # -- checkpoints -----------------------------------------------------------------------------

    def _take_cut(self, cut: Cut) -> Done | None:
        start, name = self.start_command, (cut.job, cut.incarnation, cut.cut)
        ref = CutRef(*name)
        engine = keeper(self._tools.images, self._tools.cooperative, cut)
        dumper = Dumping(engine.save, start, ref, self._ranks, self.step)
        membership = self._tools.leads.join(start, ref, engine.deadline_s(start))
        check = self._check if engine.held else self._check_orders
        try:
            self._families.close(True)
            loop = CutLoop(start.node, self._families.held, membership.ask, dumper, check)
            outcome = loop.run(free=not engine.held or self._is_free())
        finally:
            membership.close()
            dumper.give_up()
        finish = outcome.order.verdict is Verdict.FINISH
        image = dumper.image
        if finish and not cut.keep_running:
            if image is None:
                raise CheckpointFailed(f"it was released, but not by us: {dumper.state()[1]}")
            if cut.handover:
                staying = {rank: self._ranks.pop(rank) for rank in cut.stay}
                self._tools.handovers.stand(ref, staying)
            elif self._families.at_rest() and self._tools.images.stand(start, ref, self._ranks):
                self._ranks.clear()
            return Saved(*name, True, image, dumper.seconds)
        if cut.handover:
            self._tools.handovers.let_go(ref.job, ref.incarnation)
        self._note_at = outcome.step + cut.note_after if cut.note_after else 0
        self._families.release()
        if parked := self._families.parked():
            began_s = time.monotonic()
            self._resume(parked, cut.cut)
            dumper.seconds["reconnect"] = time.monotonic() - began_s
        self._families.close(False)
        if finish and image is not None:
            self._answer(Saved(*name, False, image, dumper.seconds), nothing)
        else:
            reason = outcome.order.reason or "the agent restarted before it could tell"
            self._answer(CutFailed(*name, reason, outcome.order.unable), nothing)
        return None

    def _is_free(self) -> bool:
        """A single process without a step boundary is dumped wherever it is."""
        world = self.start_command.world
        return world == 1 and all(
            isinstance(who, int) and p.step == 0 and p.state is not State.PARKED
            for who, p in self._families.held().items()
        )

    # -- other slots -----------------------------------------------------------------------------

    def _take_slots(self, wanted: Reslot) -> None:
        """Every rank follows at its next mini-batch boundary, or all go back to what they had."""
        before = self.start_command
        # At once: whoever asks meanwhile which slots there are is told the new ones.
        self.start_command = reslotting.given(before, wanted)
        fixed, limit_s = self._tools.fixed, self._tools.reslot_deadline_s
        done = reslotting.turn(before, wanted, self._pages, self._check, limit_s, fixed)
        if done.reason:
            self.start_command = before
        self._answer(done, nothing)

    # -- watching --------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raises Broken when the job was killed or a rank has ended."""
        self._check_orders()
        if any(s.exit() is not None for s in self._ranks.values()):
            raise Broken

    def _check_orders(self) -> None:
        if self._abandoned.is_set() or self._killed.is_set():
            raise Broken

    def _look(self) -> Done | None:
        """Has the job ended here, and how?"""
        if not self._ranks:
            return None
        ends = endings(self._ranks)
        if all(ended_well(e) for e in ends.values()):
            if len(ends) < len(self._ranks):
                self._look_for_hang()
                return None
            start = self.start_command
            if reason := self._tools.cooperative.left(start, ends):
                return Ended(start.job, start.incarnation, reason=reason)
            return Ended(start.job, start.incarnation, exit_code=0, step=self.step())
        time.sleep(_GRACE_S)  # let the other crashes be written down: the cause may be among them
        overran = [rank for rank, sandbox in self._ranks.items() if sandbox.overran()]
        return post_mortem(self.start_command, endings(self._ranks), overran)

    def _look_for_hang(self) -> None:
        start = self.start_command
        if reason := self._overseer.look(self._families.held(), time.monotonic()):
            self._keep_stacks(reason)
            self._answer(Hung(start.job, start.incarnation, reason, self.step()), nothing)

    def _keep_stacks(self, title: str) -> None:
        """Where the ranks stand. Once a life: what is found first is what it hangs on."""
        directory = self._tools.layout.stacks(self.start_command)
        ranks = {r: s for r, s in self._ranks.items() if not (directory / f"rank-{r}.txt").exists()}
        stacks.keep(ranks, directory, f"{title}; node {self._tools.node}")

    # -- small things ----------------------------------------------------------------------------

    def _each(self, do: Callable[[int], None]) -> None:
        """For every rank of this node, side by side. Raises the first failure, after all ended."""
        futures = [self._pool.submit(do, rank) for rank in self.start_command.ranks]
        errors = [e for f in futures if (e := f.exception()) is not None]
        if self._killed.is_set():
            raise Broken
        if errors:
            raise errors[0]

    def _page_path(self, rank: int) -> Path:
        return self._tools.layout.page(self.start_command.job, rank)


def nothing() -> None:
    """There is nothing to do between the journal and the report."""
