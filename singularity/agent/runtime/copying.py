"""A view of this machine's files in which every write goes to a copy in memory.

Run as `python -I -S copying.py ORDER` in a mount namespace of its own; ORDER is JSON, see Order.
Says `{"up": true}` on stdout when the view stands, and keeps the namespace until stdin ends: with
whoever made it, and with every process that entered, the copies are gone. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from typing import TypedDict

_LIBC = ctypes.CDLL(None, use_errno=True)
_RDONLY, _REMOUNT, _BIND = 1, 32, 4096
_APART = ("/proc", "/sys", "/dev")  # not files; whoever enters brings its own, or shares them
_MEMORY = "/dev/shm"  # but for this one
_NO_FILES = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "nsfs"}


class Order(TypedDict):
    """`home` is an empty directory to mount the copies on, `bytes` the most that they may hold.
    What is below `shared` stays real; `instead` shows another directory in place of one."""

    home: str
    bytes: int
    shared: list[str]
    instead: dict[str, str]


def main(order: Order) -> None:
    shared = [(path, _hold(path)) for path in order["shared"]]
    instead = [(path, _hold(source)) for path, source in sorted(order["instead"].items())]
    mounts = [(path, kind, _hold(path)) for path, kind in _mounts()]
    mount("tmpfs", order["home"], "tmpfs", options=f"size={order['bytes']},mode=700")
    copies = _Copies(_hold(order["home"]))
    for name in sorted(os.listdir("/")):
        top = f"/{name}"
        if top not in _APART and os.path.isdir(top) and not os.path.islink(top):
            copies.over(top, top)
    for path, kind, held in mounts:
        _again(copies, path, kind, held)
    for path, held in shared:
        os.makedirs(path, exist_ok=True)  # what lies on a mount below /dev is not in the copies
        mount(held, path, "", _BIND)
    for path, held in instead:
        os.makedirs(path, exist_ok=True)
        mount(held, path, "", _BIND)
    mount("", "/", "", _REMOUNT | _BIND | _RDONLY)  # last, for what is bound takes after it
    os.write(1, b'{"up": true}\n')
    sys.stdin.read()


class _Copies:
    """Makes one directory after another copy on write."""

    def __init__(self, store: str) -> None:
        self._store, self._count = store, 0

    def over(self, below: str, path: str) -> None:
        self._count += 1
        upper, work = f"{self._store}/{self._count}", f"{self._store}/{self._count}.work"
        os.mkdir(upper)
        os.mkdir(work)
        found = os.stat(below)
        os.chmod(upper, stat.S_IMODE(found.st_mode))
        os.chown(upper, found.st_uid, found.st_gid)
        mount(
            "overlay", path, "overlay", options=f"lowerdir={below},upperdir={upper},workdir={work}"
        )


def _again(copies: _Copies, path: str, kind: str, held: str) -> None:
    """A mount that now lies below a copy, which does not show it, or that nothing covers yet."""
    if path == _MEMORY or (kind not in _NO_FILES and not _apart(path) and os.path.isdir(held)):
        copies.over(held, path)
    elif not _apart(path):
        try:
            mount(held, path, "", _BIND)
        except OSError:  # a namespace held by name cannot be mounted everywhere; nobody reads it
            if kind != "nsfs":
                raise


def _apart(path: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in _APART)


def _mounts() -> list[tuple[str, str]]:
    """(path, kind) of every mount but the first, outermost first; of several on one path, the
    last, which hides the others."""
    found = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            path = fields.split()[4].encode().decode("unicode_escape")
            found[path] = rest.split()[0]
    found.pop("/", None)
    return sorted(found.items(), key=lambda mounted: (mounted[0].count("/"), mounted[0]))


def _hold(path: str) -> str:
    """A name for what is at `path` now, whatever is mounted over it later."""
    return f"/proc/self/fd/{os.open(path, os.O_PATH)}"


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    code = _LIBC.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
