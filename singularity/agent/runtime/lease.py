"""Until when the ranks of this node may run: written by the agent each time it is heard, read by
the supervisor of every sandbox, which stops its rank when nobody has written for too long. An agent
that is dead can fence nothing; its ranks must not run on beside another life of their job.

The file holds nanoseconds of CLOCK_MONOTONIC, 8 bytes, and is written in place: whoever opened it
sees what later agents write. Empty, it binds nobody.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class RunLease:
    """The agent's side of it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def extend(self, until_s: float) -> bool:
        """Ranks may run until then, in seconds of time.monotonic(). True if they might have been
        stopped meanwhile: what there was before is over."""
        before = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        os.pwrite(self._fd, int(until_s * 1e9).to_bytes(8, "little"), 0)
        return 0 < before < time.monotonic_ns()

    def close(self) -> None:
        os.close(self._fd)
