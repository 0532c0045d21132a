"""The agent's side: put the interposer where a job's Python will find it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PACKAGE: Final = "singularity_interposer"
_SOURCE: Final = Path(__file__).parent
_AGENT: Final = _SOURCE.parent
_BORROWED: Final = (  # of the agent's own, that the job's process needs as well
    _AGENT / "device" / "ptx.py",
    _AGENT / "device" / "prologue.py",
    _AGENT / "shim" / "triton_hook.py",
)
_DEVICE: Final = b"from singularity.agent.device."
_METADATA: Final = f"Metadata-Version: 2.1\nName: {_PACKAGE.replace('_', '-')}\nVersion: 1\n"
_ENTRY_POINTS: Final = f"[torch.backends]\nsingularity = {_PACKAGE}.hook:activate\n"


def prepare(target: Path) -> Path:
    """Make `target` a directory for PYTHONPATH that holds the interposer, and return it.

    Atomic and idempotent: `target` is a link to a directory named by its content, so agents may
    race, and ranks of an older version keep the files that they were started with.
    OSError if the parent cannot be written or `target` is something else.
    """
    files = _files()
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    version = target.with_name(f"{target.name}-{digest.hexdigest()[:12]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not version.is_dir():
        _write(files, version)
    if not target.is_symlink() or os.readlink(target) != version.name:
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            link = Path(scratch) / "link"
            link.symlink_to(version.name)
            link.replace(target)
    return target


def _files() -> dict[str, bytes]:
    """Relative path and content of everything that the job needs."""
    files = {
        f"{_PACKAGE}/{path.name}": path.read_bytes()
        for path in _SOURCE.glob("*.py")
        if path.name != Path(__file__).name
    }
    files |= {
        f"{_PACKAGE}/{path.name}": path.read_bytes().replace(_DEVICE, b"from .")
        for path in _BORROWED
    }
    info = f"{_PACKAGE}-1.dist-info"
    files[f"{info}/METADATA"] = _METADATA.encode()
    files[f"{info}/entry_points.txt"] = _ENTRY_POINTS.encode()
    return files


def _write(files: dict[str, bytes], version: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=version.parent))
    scratch.chmod(0o755)  # mkdtemp's is the owner's alone; ranks may run as somebody else
    try:
        for name, content in files.items():
            path = scratch / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        scratch.rename(version)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not version.is_dir():  # else another agent was faster, with the same content
            raise
