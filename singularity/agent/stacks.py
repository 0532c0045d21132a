"""Ranks that make no progress: noticed by their pages, and where each stands written down by py-spy
beside the job's logs before it is killed."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from . import stall
from .interposer.page import Page, State
from .runtime.sandbox import Sandbox

log = logging.getLogger(__name__)

_AT_WORK: Final = (State.LOADED, State.RUNNING)  # else no boundary, at rest, or done
_PY_SPY_S: Final = 20.0  # it takes a fraction of a second; a rank in the kernel may not let it


class Overseer:
    """Looks at the pages of one life's ranks between effects; `frozen` while we have stopped them.

    A cut or a change of slots needs no excuse: whoever follows it makes a step, and whoever does
    not may hang. Were every try excused, frequent checkpoints would hide a hang for ever.
    """

    def __init__(self, hang_after_s: float | None, first_s: float) -> None:
        self._limits = None if hang_after_s is None else stall.Limits(hang_after_s, first_s)
        self._watch = stall.Watch()
        self._crossings: dict[stall.Who, int] = {}
        self.frozen = False

    def look(self, pages: Mapping[stall.Who, Page], now_s: float) -> str:
        """What says that the ranks hang; once, then it is known."""
        if self._limits is None:
            return ""
        if self.frozen:
            self._watch = stall.excuse(self._watch, now_s)
            return ""
        at_work = {r: page for r, page in list(pages.items()) if page.state in _AT_WORK}
        steps = {r: page.step for r, page in at_work.items() if not self._crossed(r, page)}
        self._watch = stall.observe(self._watch, steps, now_s)
        reason = stall.hung(self._watch, self._limits, now_s)
        if reason:
            self._limits = None
        return reason

    def _crossed(self, rank: stall.Who, page: Page) -> bool:
        """Whether a rank that takes no optimizer steps has met its gang since the last look: then
        its time starts again, as that of a first step, for nothing says what it computes next."""
        known, now = self._crossings.get(rank, page.crossings), page.crossings
        self._crossings[rank] = now
        return not page.step and known != now


def keep(ranks: Mapping[int, Sandbox], directory: Path, title: str) -> None:
    """One file a rank in `directory`: `title`, then the stack of every thread of it and of its
    children.

    Never raises: what could not be learnt is written down instead, for the ranks must end anyway.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for rank, sandbox in sorted(ranks.items()):
            draft = directory / f".rank-{rank}.new"
            draft.write_text(f"# rank {rank}: {title}\n{_stack(sandbox)}")
            draft.replace(directory / f"rank-{rank}.txt")  # readers see whole files
    except OSError as error:
        log.warning("stacks not kept", extra={"directory": str(directory), "reason": str(error)})


def _stack(sandbox: Sandbox) -> str:
    pid = sandbox.pid
    if pid is None:
        return "the rank does not run\n"
    program = py_spy()
    if program is None:
        return f"py-spy is not installed\n{_kernel(pid)}"
    argv = [program, "dump", "--pid", str(pid), "--subprocesses"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_PY_SPY_S, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"py-spy was not done after {_PY_SPY_S:g} s\n{_kernel(pid)}"
    if done.returncode != 0:
        return f"py-spy: {done.stderr.strip()}\n{_kernel(pid)}"
    return done.stdout


def _kernel(pid: int) -> str:
    """What the kernel says of a rank whose Python cannot be read."""
    try:
        lines = (Path(f"/proc/{pid}/status")).read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(x for x in lines if x.startswith(("Name:", "State:", "Threads:"))) + "\n"


def py_spy() -> str | None:
    """The one installed with us, else one on PATH."""
    own = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(own) if own.exists() else shutil.which("py-spy")
