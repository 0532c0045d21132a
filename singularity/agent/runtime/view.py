"""The machine's files as ranks that are restored aside see them: what they write, nobody else
sees, and nothing of it is left when they are gone."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from singularity.primitives.errors import RestoreFailed

from . import copying

MOST_BYTES: Final = 1 << 30  # of memory, for what is written aside
_END_S: Final = 20.0


class View:
    """Files below `shared` are the real ones; each key of `instead` shows its value."""

    def __init__(self, home: Path, shared: Sequence[Path], instead: Mapping[Path, Path]) -> None:
        """Raises RestoreFailed where the kernel does not let us."""
        if os.geteuid() != 0:
            raise RestoreFailed("only an agent that is root can restore ranks aside")
        home.mkdir(parents=True, exist_ok=True)
        self._home = home
        order: copying.Order = {
            "home": str(home),
            "bytes": MOST_BYTES,
            "shared": [str(path) for path in shared],
            "instead": {str(path): str(source) for path, source in instead.items()},
        }
        argv = ["unshare", "-m", "--propagation", "slave", sys.executable, "-I", "-S"]
        self._process = subprocess.Popen(
            [*argv, copying.__file__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        if not self._process.stdout.readline():
            last = self._process.stderr.read().decode(errors="replace").strip().split("\n")[-1]
            self.close()
            raise RestoreFailed(f"the kernel gives no files to restore aside with: {last}")

    @property
    def pid(self) -> int:
        """Of a process whose mount namespace it is."""
        return self._process.pid

    def path(self, path: Path) -> Path:
        """Where its `path` is for us."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")

    def seed(self, path: Path, size: int) -> None:
        """Give it the first `size` bytes of the real file at `path` for its own. Raises
        RestoreFailed when there are not so many."""
        copy = self.path(path)
        try:
            with path.open("rb") as source:
                found = os.fstat(source.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_size < size:
                    raise RestoreFailed(f"{path} has been cut back since")
                if size > MOST_BYTES:
                    raise RestoreFailed(f"{path} is larger than 1 GiB, too large to copy")
                copy.unlink()
                with copy.open("wb") as target:
                    left = size
                    while left and (piece := source.read(min(left, 1 << 20))):
                        left -= target.write(piece)
                    os.fchmod(target.fileno(), stat.S_IMODE(found.st_mode))
                    os.fchown(target.fileno(), found.st_uid, found.st_gid)
        except OSError as error:
            raise RestoreFailed(f"{path} cannot be copied: {error.strerror}") from error

    def close(self) -> None:
        """Idempotent. Processes that have entered keep what they see."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)
