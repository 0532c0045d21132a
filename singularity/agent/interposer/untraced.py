"""torch.compile looks into every frame that runs below what it compiles; ours are none of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any

from torch._C._dynamo.eval_frame import (
    _FrameAction,
    _FrameExecStrategy,
    set_code_exec_strategy,
)


def leave_untraced(package: str) -> None:
    """Have torch.compile run every function of `package` as it is. It finds our collectives below
    those of torch that C++ calls, and fails on a process group that is written in Python."""
    strategy = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT)
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for code in _codes(vars(module), name):
                set_code_exec_strategy(code, strategy)


def _codes(names: dict[str, Any], module: str) -> Iterator[CodeType]:
    """Of all functions defined in the namespace, in its classes and in themselves."""
    for value in list(names.values()):
        if isinstance(value, type) and value.__module__ == module:
            yield from _codes(dict(vars(value)), module)
            continue
        for each in (value, *(getattr(value, part, None) for part in ("fget", "fset", "__func__"))):
            function = unwrap(each) if callable(each) else each
            if isinstance(function, FunctionType) and function.__module__ == module:
                yield from _nested(function.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
