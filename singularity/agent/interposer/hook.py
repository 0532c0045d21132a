"""The way in: `import torch` itself calls activate(), through the `torch.backends` entry point."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from multiprocessing.process import current_process
from pathlib import Path
from typing import Final

from .page import Page

_PAGE: Final = "SINGULARITY_PAGE"
_OWNER: Final = "SINGULARITY_PAGE_OWNER"
_ASK: Final = 0xFFFFFFFF
_NO_RANDOM_ADDRESSES: Final = 0x0040000  # what setarch -R sets
_YIELD: Final = "SINGULARITY_YIELD"
_ALONE: Final = "SINGULARITY_ALONE"  # set where the plane launched one process


def _randomise_children() -> None:
    """Let the programs that this process starts have addresses at random, though it has not.

    CRIU takes memory of a child for its parent's where both map a file at the same address, and
    does not compare from where in the file (`check_cow_vmas`). A forked child does have its
    parent's mappings; one that is another program must not by chance.
    """
    libc = ctypes.CDLL(None)
    now = libc.personality(ctypes.c_ulong(_ASK))
    if now != -1 and now & _NO_RANDOM_ADDRESSES:
        libc.personality(ctypes.c_ulong(now & ~_NO_RANDOM_ADDRESSES))


def activate() -> None:
    """Make this process a rank if it was started as one; otherwise do nothing.

    A process that a rank starts inherits the environment but must leave the page alone, so the
    rank signs the environment with its process id. Where the plane launched a single process,
    those that it starts may still become ranks of a world of their own (see family.py). Whatever
    goes wrong costs the job its transparency, never its life: it runs on as plain torch, and the
    page says NONE.
    """
    if os.environ.get(_YIELD):  # in compilers that a rank starts as well
        importlib.import_module(".triton_hook", __package__).install()
    path, pid = os.environ.get(_PAGE), str(os.getpid())
    alone = bool(os.environ.get(_ALONE))
    owner = path is not None and os.environ.setdefault(_OWNER, pid) == pid
    if not path or not (owner or alone):
        return
    _randomise_children()
    try:
        page = Page(Path(path))
        from .family import semaphores  # here: no other process pays for the imports
        from .seams import Place, install

        current_process()._config["semprefix"] = semaphores(page.path)  # type: ignore[attr-defined]

        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if alone:
            install(page, Place(rank=0, world=1, alone=True, owner=owner))
        else:
            install(page, Place(rank=int(rank), world=int(world)))
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        sys.stderr.write(f"singularity: this job cannot be moved while it runs: {error!r}\n")
