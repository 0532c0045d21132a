"""Triton's kernels yield: over a stand-in for what its hook is of it, and with Triton where it is
installed (it compiles without a GPU)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from singularity.agent.interposer.inject import prepare
from singularity.agent.shim.triton_hook import hook_in, install, wrap
from tests.standin.ptx_kernels import HEAD

KERNEL = (
    f"{HEAD}.visible .entry add(.param .u64 a, .param .u64 .ptr .global .align 1 scratch)\n"
    "{\n\tret;\n}\n"
)
LAST = "ld.param.u64 %reef_d0, [scratch];"


def knobs(hook: Any = None) -> Any:
    return SimpleNamespace(runtime=SimpleNamespace(add_stages_inspection_hook=hook))


def compiled(options: object = None, text: Any = KERNEL, **metadata: object) -> Any:
    stages = {"ptx": lambda source, metadata: source, "cubin": lambda source, metadata: source}
    wrap(stages, options or SimpleNamespace())
    return stages["ptx"](text, {"profile_scratch_size": 0, **metadata})


def test_the_stage_that_makes_ptx_gives_it_a_prologue() -> None:
    text = compiled()
    assert LAST in text and "add_reef_yields" in text and "add_reef_ticket" not in text


@pytest.mark.parametrize(
    "left_alone",
    [
        compiled(SimpleNamespace(launch_cooperative_grid=True)),
        compiled(profile_scratch_size=64),
        compiled(profile_scratch_size=None),
        compiled(text=KERNEL.replace("ret;", "griddepcontrol.wait;\n\tret;")),
        compiled(text=b"machine code"),
    ],
)
def test_what_cannot_yield_is_left_as_it_is(left_alone: str | bytes) -> None:
    assert "reef" not in str(left_alone)


def test_a_hook_that_was_there_before_is_heard_too() -> None:
    heard: list[tuple[object, ...]] = []

    def before(*given: Any) -> tuple[str, str] | None:
        heard.append(given)
        return None if given else ("key", "hash")

    for first, keys in ((None, ("", "")), (before, ("key", "hash"))):
        found = knobs(first)
        hook_in(found)
        hook = found.runtime.add_stages_inspection_hook
        for mine, theirs in zip(hook(), keys, strict=True):
            assert mine != theirs and theirs in mine
        stages: dict[str, Any] = {"ptx": lambda source, metadata: source}
        hook("backend", stages, SimpleNamespace(), "language", 90)
        assert LAST in stages["ptx"](KERNEL, {"profile_scratch_size": 0})
    assert len(heard) == 2


def test_caches_are_kept_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/cache")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER", "1")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "triton.knobs", raising=False)
    for _ in range(2):
        install()
        assert os.environ["TRITON_CACHE_DIR"] == "/cache/yielding"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("/yielding")
    assert os.environ["TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER"] == "1", "whoever says so has it"


STAND_IN = """
class runtime:
    add_stages_inspection_hook = None
"""
ASKS = """
import singularity_interposer.hook as hook
hook.activate()
import triton.knobs as knobs
stages = {"ptx": lambda source, metadata: source}
knobs.runtime.add_stages_inspection_hook("backend", stages, object(), "language", 90)
print(stages["ptx"](open("kernel.ptx").read(), {"profile_scratch_size": 0}))
"""


def ask(script: str, directory: Path, *paths: object) -> str:
    inject = prepare(directory / "inject")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (inject, *paths))),
        "SINGULARITY_YIELD": "1",
        "TRITON_CACHE_DIR": str(directory / "cache"),
    }
    argv = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_imports_triton_later_has_the_hook(tmp_path: Path) -> None:
    package = tmp_path / "site" / "triton"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "knobs.py").write_text(STAND_IN)
    (tmp_path / "kernel.ptx").write_text(KERNEL)
    assert LAST in ask(ASKS, tmp_path, tmp_path / "site")


COMPILES = """
import singularity_interposer.hook as hook
hook.activate()
import linecache, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernel import add
source = ASTSource(add, {"x": "*fp32", "n": "i32", "B": "constexpr"}, constexprs={(2,): 64})
for arch in (80, 90):
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32))
    print("reef_yields" in made.asm["ptx"], b"add_reef_yields" in made.asm["cubin"])
"""
TRITON_KERNEL = """
import triton, triton.language as tl

@triton.jit
def add(x, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + at, tl.load(x + at, at < n) + 1, at < n)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_itself_compiles_kernels_that_yield(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(TRITON_KERNEL)
    assert ask(COMPILES, tmp_path, tmp_path, *sys.path).split() == ["True"] * 4
    assert list((tmp_path / "cache" / "yielding").iterdir()), "the cache is its own"
