"""The way in: `import torch` itself calls activate(), through the `torch.backends` entry point."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from .page import Page

_PAGE: Final = "SINGULARITY_PAGE"
_OWNER: Final = "SINGULARITY_PAGE_OWNER"
_ALONE: Final = "SINGULARITY_ALONE"  # set where the plane launched one process


def activate() -> None:
    """Make this process a rank if it was started as one; otherwise do nothing.

    A process that a rank starts inherits the environment but must leave the page alone, so the
    rank signs the environment with its process id. Where the plane launched a single process,
    those that it starts may still become ranks of a world of their own (see family.py). Whatever
    goes wrong costs the job its transparency, never its life: it runs on as plain torch, and the
    page says NONE.
    """
    path, pid = os.environ.get(_PAGE), str(os.getpid())
    alone = bool(os.environ.get(_ALONE))
    owner = path is not None and os.environ.setdefault(_OWNER, pid) == pid
    if not path or not (owner or alone):
        return
    try:
        page = Page(Path(path))
        from .seams import Place, install  # here: no other process pays for the import

        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if alone:
            install(page, Place(rank=0, world=1, alone=True, owner=owner))
        else:
            install(page, Place(rank=int(rank), world=int(world)))
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        sys.stderr.write(f"singularity: this job cannot be moved while it runs: {error!r}\n")
