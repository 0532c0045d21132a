"""Ranks of a checkpoint, restored beside the job that made it: they run a few mini-batches, and
what they write is compared with what the job itself wrote after that cut.

They have sandboxes, addresses and a rendezvous of their own, and a view of the node's files in
which every write goes to a copy in memory. They hold at every mini-batch, so that a difference can
be dated. Whatever happens, the copies and the ranks go together, and an agent that finds such
ranks after a restart kills them: nobody is left who could compare.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from singularity.primitives.errors import HandFailed, RestoreFailed
from singularity.primitives.findings import Certificate, Finding
from singularity.primitives.messages import Start

from . import comparison
from .answers import Done, Ended
from .checkpoint import OUTPUTS
from .comparison import Comparison, Output
from .cutting import Broken
from .endings import ended_well, endings, post_mortem
from .hands import Hands
from .images import Fetched
from .interposer.page import State, note_path
from .layout import Layout
from .proof import described
from .runtime.view import View

log = logging.getLogger(__name__)

_POLL_S: Final = 0.005
_CATCH_UP_S: Final = 60.0  # for the job to get as far as its shadow


class Shadow(Hands):
    """The hands of a job of kind verify. It answers with a certificate where it can compare."""

    _view_made: View | None = None
    _outputs: Mapping[Path, int] = {}  # of all ranks, with their sizes at the cut

    def run(self) -> None:
        super().run()
        if self._abandoned.is_set() and self._view_made is not None:
            self._view_made.close()  # as the end of its pipe does, when an agent dies

    def _launch(self) -> Done | None:
        assert self.start_command.aside is not None and self.start_command.origin is not None
        self._note_at = self.start_command.origin.step + self.start_command.aside.steps
        if (refused := super()._launch()) is not None or self._killed.is_set():
            return refused
        try:
            certificate = self._compare()
        except Broken:
            return None
        except HandFailed as error:
            certificate = self._certificate(Comparison((), ""), 0, error.detail)
        start = self.start_command
        return Ended(start.job, start.incarnation, exit_code=0, certificate=certificate)

    def _clear(self) -> None:
        super()._clear()
        if self._view_made is not None:
            self._view_made.close()
        forget(self._tools.layout, self.start_command)

    # -- restored to hold ------------------------------------------------------------------------

    def _view(self, found: Fetched) -> int | None:
        """Also takes from the images what a restore would cut back: those are the job's own files,
        and only their copies may be cut."""
        start, layout = self.start_command, self._tools.layout
        assert start.aside is not None
        mine = layout.page(start.job, 0).parent
        shared = (layout.sandboxes, *layout.scratch.homes, mine, layout.job(start.job))
        for path in (layout.sandboxes, *layout.scratch.homes):
            path.mkdir(parents=True, exist_ok=True)
        view = View(layout.view(start), shared, {layout.page(start.aside.of, 0).parent: mine})
        self._view_made = view
        outputs: dict[Path, int] = {}
        for rank in start.ranks:
            listed = found.directory / str(rank) / OUTPUTS
            noted = json.loads(listed.read_text())
            outputs |= {Path(path): size for path, size in noted["sizes"].items()}
            listed.write_text(json.dumps({**noted, "sizes": {}}))
        for path, size in outputs.items():
            view.seed(path, size)
        self._outputs = outputs
        return view.pid

    def _first_stop(self) -> int:
        assert self.start_command.origin is not None
        return self.start_command.origin.step + 1

    # -- step by step ----------------------------------------------------------------------------

    def _compare(self) -> Certificate:
        start = self.start_command
        assert start.origin is not None and start.aside is not None
        if not start.origin.step:
            raise RestoreFailed("it was cut where it was, with no mini-batch to hold at")
        if len({page.count for page in self._families.held().values()}) > 1:
            raise RestoreFailed("its ranks count what they do, each its own: they share no step")
        marks: list[Mapping[Path, int]] = []
        for stop in range(start.origin.step + 1, start.origin.step + start.aside.steps + 1):
            for page in self._families.held().values():
                page.hold_at(stop)
            if not self._rests(stop):
                break  # the program came to its end
            marks.append(self._sizes())
        done = len(marks)
        self._wait_for_the_job()
        outputs = [self._output(path, size, marks) for path, size in self._outputs.items()]
        found = comparison.compare(outputs, start.origin.step)
        return self._certificate(Comparison(found, self._parameters()), done, "")

    def _rests(self, stop: int) -> bool:
        """Wait until all hold at `stop`; False when all have ended well instead. Raises Broken."""
        while True:
            ends = endings(self._ranks)
            if self._killed.is_set() or self._abandoned.is_set():
                raise Broken
            if any(not ended_well(end) for end in ends.values()):
                raise RestoreFailed(f"aside, {post_mortem(self.start_command, ends, ()).reason}")
            held = self._families.held().items()
            left = [p for who, p in held if not isinstance(who, int) or who not in ends]
            if len(ends) == len(self._ranks):
                return False
            if all(p.state is State.HOLDING and p.count >= stop for p in left):
                return True
            time.sleep(_POLL_S)

    def _wait_for_the_job(self) -> None:
        """Until it has written what there is to compare with, or is not going to."""
        wanted, deadline_s = self._sizes(), time.monotonic() + _CATCH_UP_S
        ours, theirs = self._notes(mine=True), self._notes(mine=False)
        noted = [theirs[r] for r in ours if ours[r].exists()]  # a job may have no parameters
        while time.monotonic() < deadline_s:
            if self._killed.is_set() or self._abandoned.is_set():
                raise Broken
            behind = any(comparison.size_of(path) < size for path, size in wanted.items())
            if not behind and all(path.exists() for path in noted):
                return
            time.sleep(_POLL_S)

    # -- what was found --------------------------------------------------------------------------

    def _sizes(self) -> dict[Path, int]:
        assert self._view_made is not None
        return {p: comparison.size_of(self._view_made.path(p)) for p in self._outputs}

    def _output(self, path: Path, size: int, marks: list[Mapping[Path, int]]) -> Output:
        assert self._view_made is not None
        return Output(path, self._view_made.path(path), size, tuple(m[path] for m in marks))

    def _notes(self, *, mine: bool) -> dict[int, Path]:
        """Where each rank notes its hash; none where the job was not asked to."""
        start = self.start_command
        assert start.aside is not None
        if start.aside.cut:
            return {}
        job = self._tools.layout.job(start.job if mine else start.aside.of)
        return {r: note_path(job, self._note_at, f"rank-{r}") for r in start.ranks}

    def _parameters(self) -> str:
        theirs, ours = self._notes(mine=False), self._notes(mine=True)
        pairs = [(comparison.digest(theirs[r]), comparison.digest(ours[r])) for r in ours]
        for path in theirs.values():
            path.unlink(missing_ok=True)  # nobody else asked for it
        if not pairs or any(not digest for pair in pairs for digest in pair):
            return ""
        return "identical" if all(a == b for a, b in pairs) else "differ"

    def _certificate(self, found: Comparison, steps: int, failure: str) -> Certificate:
        origin = self.start_command.origin
        assert origin is not None
        last = origin.step + steps
        finding, reason = (Finding.INCOMPARABLE, failure) if failure else found.verdict(last)
        return Certificate(
            finding=finding,
            reason=reason,
            incarnation=origin.incarnation,
            cut=origin.cut,
            step=origin.step,
            steps=steps,
            differs_at=found.differs_at(last),
            files=sum(1 for o in found.files if o.bytes),
            bytes=sum(o.bytes for o in found.files),
            parameters=found.parameters,
            facts=tuple(sorted(described(self._tools.images.checkpointer).items())),
        )


def forget(layout: Layout, start: Start) -> None:
    """Remove what is left of ranks aside, when none of them is."""
    litter = (
        layout.page(start.job, 0).parent,
        layout.job(start.job),
        layout.view(start),
        *(path for home in layout.scratch.homes for path in home.glob(f"{start.job}.*")),
    )
    for path in litter:
        shutil.rmtree(path, ignore_errors=True)
