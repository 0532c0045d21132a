"""What nodes find on this machine, and what is left there of one whose agent is gone: sandboxes,
cgroups, the bridge.

Ranks outlive their agent on purpose. Whoever takes a planet down, or plays the loss of a node,
has to end them too; the sandboxes' own records say what to kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from .processes import Known, wait_until

_NOTICE_S: Final = 2.0
_DIE_S: Final = 20.0  # for the kernel to take a sandbox down; a rank in a device driver is slow
_SCRATCH_LEAST_BYTES: Final = 2 << 30


def search_path(environ: Mapping[str, str]) -> str:
    """Where ranks look for programs: `python` is the one that runs this, whose environment has
    torch, unless the shell has activated an environment of its own."""
    path = environ.get("PATH", os.defpath)
    if environ.get("VIRTUAL_ENV") or environ.get("CONDA_PREFIX"):
        return path
    return os.pathsep.join((str(Path(sys.executable).parent), path))


def kill_sandboxes(node_dirs: Sequence[Path]) -> int:
    """SIGKILL every sandbox of these nodes with the rank in it; how many there were alive.

    Returns when they are gone. The records stay: the agent reads from them what it lost.
    """
    found = [known for known in _sandboxes(node_dirs) if known.alive()]
    for known in found:
        with suppress(ProcessLookupError):
            os.kill(known.pid, signal.SIGKILL)
    wait_until(lambda: not any(known.alive() for known in found), _DIE_S)
    return len(found)


def remove_cgroups(node_dirs: Sequence[Path]) -> None:
    """Remove the limits that dead sandboxes were under."""
    for node_dir in node_dirs:
        for path in node_dir.glob("sandboxes/*/state.json"):
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                cgroup = json.loads(path.read_text())["cgroup"] or {}
                for group in cgroup.get("paths", ()):
                    wait_until(partial(_removed, Path(group)), _NOTICE_S)
                for shared in cgroup.get("above", ()):
                    _removed(Path(shared))


def remove_bridge(name: str) -> None:
    """The bridge lives in a network namespace of its name; both go. Idempotent."""
    with suppress(FileNotFoundError):  # without iproute2 there was no bridge
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def scratch_directory(name: str, memory: Path = Path("/dev/shm")) -> Path | None:
    """A directory in memory for images on their way, of large pages where we may have some (see the
    agent's scratch.py); None where there is little room for it."""
    path = memory / name
    try:
        if shutil.disk_usage(memory).free < _SCRATCH_LEAST_BYTES:
            return None
        path.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "huge=within_size,mode=700", "tmpfs", str(path)]
        subprocess.run(mount, capture_output=True, check=False)  # it works without
    except FileExistsError:
        pass  # of an earlier life: ranks that live may have found it as it is
    except OSError:
        return None
    return path


def remove_scratch(path: Path) -> None:
    """When nobody is left who uses it."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
        path.rmdir()


def _sandboxes(node_dirs: Sequence[Path]) -> Iterator[Known]:
    for node_dir in node_dirs:
        for path in node_dir.glob("sandboxes/*/state.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                supervisor = json.loads(path.read_text())["supervisor"]
                if (known := Known.read(json.dumps(supervisor))) is not None:
                    yield known


def _removed(group: Path) -> bool:
    """The kernel takes a moment to notice that a group's processes are gone."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
