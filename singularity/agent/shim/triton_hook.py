"""In the user's process: kernels that Triton compiles are given the prologue.

Triton's kernels are loaded as machine code, which the shim cannot change. So the stage of its
compiler that makes PTX is followed by one of ours. The ticket is the last parameter, which Triton's
launcher passes for a profiler and leaves null; only the shim fills it in, and without the shim
kernels run as they did.

Standard library only. It and what it imports are copied to where the job's Python finds them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from singularity.agent.device.prologue import Carrier, Form, inject

_KNOBS: Final = "triton.knobs"
_KEY: Final = "singularity-yields-1"
_OURS: Final = "yielding"  # a directory in what would be a cache of code without the prologue
Stages = MutableMapping[str, Callable[[Any, Mapping[str, Any]], Any]]


def install() -> None:
    """Now, or when the program imports Triton. Compilers that it starts inherit all of it."""
    _keep_apart()
    # Its launchers go by the compiled file alone, and know nothing of the last parameter.
    os.environ.setdefault("TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER", "0")
    if _KNOBS in sys.modules:
        hook_in(sys.modules[_KNOBS])
    else:
        sys.meta_path.insert(0, _Finder())


def _keep_apart() -> None:
    """Older versions of Triton do not count our stage among what their cache goes by."""
    home = Path(os.environ.get("TRITON_HOME", Path.home()), ".triton", "cache")
    user = "".join(c if c.isalnum() else "_" for c in os.environ.get("USER", str(os.getuid())))
    usual = {
        "TRITON_CACHE_DIR": str(home),
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), f"torchinductor_{user}")),
    }
    for name, path in usual.items():
        kept = Path(os.environ.get(name, path))
        if kept.name != _OURS:
            os.environ[name] = str(kept / _OURS)


def hook_in(knobs: ModuleType) -> None:
    """Add our stage behind whatever hook there is already."""
    before = knobs.runtime.add_stages_inspection_hook

    def hook(*given: Any) -> tuple[str, str] | None:
        if not given:  # what the cache is to go by
            keys = before() if before is not None else ("", "")
            return keys[0] + _KEY, f"{keys[1]}{_KEY!r}"
        if before is not None:
            before(*given)
        _, stages, options, *_ = given
        wrap(stages, options)
        return None

    knobs.runtime.add_stages_inspection_hook = hook


def wrap(stages: Stages, options: object) -> None:
    """Make the stage `ptx` give kernels that yield, where they can."""
    make = stages.get("ptx")
    if make is None or getattr(options, "launch_cooperative_grid", False):
        return

    def yielding(source: Any, metadata: Mapping[str, Any]) -> Any:
        text = make(source, metadata)
        if not isinstance(text, str) or metadata.get("profile_scratch_size") != 0:
            return text  # a profiler has the parameter, or this Triton has none
        return inject(text, Form.EXACT, Carrier.LAST).text

    stages["ptx"] = yielding


class _Finder(MetaPathFinder):
    """Waits for one import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _KNOBS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        try:
            hook_in(module)
        except AttributeError as error:
            sys.stderr.write(f"singularity: kernels of this Triton do not yield: {error!r}\n")
