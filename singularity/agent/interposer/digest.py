"""Notes the hash of what a rank has learnt, for comparison with another run of the same steps.

The note lies on the volume, for the agent of another node may be the one who reads it. Whoever
asks for it waits for its name to appear (see page.note_path).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from .page import Page, note_path


def note(page: Page, step: int, values: Iterable[torch.Tensor]) -> None:
    """Write down the hash at `step`. Without a place to write to, nobody is there to read it."""
    store = page.rendezvous["store"]
    if not store:
        return
    path = note_path(Path(store).parents[1], step, page.path.stem)
    found = {"digest": of(values), "torch": str(torch.__version__)}
    found["python"] = platform.python_version()
    try:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(found))
        draft.replace(path)
    except OSError:  # a full disk must not end a training over a note
        path.unlink(missing_ok=True)


def of(values: Iterable[torch.Tensor]) -> str:
    """Of all of them together, in whatever order they come."""
    each = sorted(_one(value) for value in values)
    return hashlib.blake2b(b"".join(each), digest_size=32).hexdigest()


def _one(value: torch.Tensor) -> bytes:
    local = getattr(value, "_local_tensor", value)  # a DTensor's own shard
    whole = local.detach().to("cpu").contiguous()
    kind = f"{whole.dtype} {tuple(whole.shape)}".encode()
    found = hashlib.blake2b(kind, digest_size=32)
    if size := whole.numel() * whole.element_size():
        found.update((ctypes.c_ubyte * size).from_address(whole.data_ptr()))
    return found.digest()
