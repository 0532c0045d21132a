"""The way in: `import torch` itself calls activate(), through the `torch.backends` entry point."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from .page import Page

_PAGE: Final = "SINGULARITY_PAGE"
_OWNER: Final = "SINGULARITY_PAGE_OWNER"


def activate() -> None:
    """Make this process a rank if it was started as one; otherwise do nothing.

    A process that a rank starts inherits the environment but must leave the page alone, so the
    rank signs the environment with its process id. Whatever goes wrong costs the job its
    transparency, never its life: it runs on as plain torch, and the page says NONE.
    """
    path, pid = os.environ.get(_PAGE), str(os.getpid())
    if not path or os.environ.get(_OWNER, pid) != pid:
        return
    os.environ[_OWNER] = pid
    try:
        page = Page(Path(path))
        from .seams import Place, install  # here: no other process pays for the import

        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        install(page, Place(rank=int(rank), world=int(world)))
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        sys.stderr.write(f"singularity: this job cannot be moved while it runs: {error!r}\n")
