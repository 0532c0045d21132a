"""The port that a replica listens on: chosen here, told to its program, kept with its sandbox."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from singularity.primitives.errors import SandboxFailed

# Below what kernels give to outgoing connections, which could take it before the program does.
_FIRST, _LAST = 10000, 29999
_TRIES: Final = 200
_WORD: Final = re.compile(r"\$PORT\b|\$\{PORT\}")


def choose(sandbox: Path) -> int:
    """A free one, for the replica in `sandbox`."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if _is_free(port):
            (sandbox / "port").write_text(str(port))
            return port
    raise SandboxFailed(f"{_TRIES} ports between {_FIRST} and {_LAST} in a row are taken")


def chosen(sandbox: Path) -> int:
    """The port of a replica that runs."""
    return int((sandbox / "port").read_text())


def filled(argv: Sequence[str], port: int) -> tuple[str, ...]:
    """`argv` with the port in place of `$PORT`: no shell sees it that would do that."""
    return tuple(_WORD.sub(str(port), word) for word in argv)


def _is_free(port: int) -> bool:
    """On all addresses: the program may listen on any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
