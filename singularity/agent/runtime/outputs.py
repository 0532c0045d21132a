"""Notes the output files of a rank and their sizes, while CRIU holds it frozen.

Run by CRIU inside the sandbox as `python -I -S outputs.py PID FILE` once everything is dumped and
nothing runs yet: the only moment at which the sizes are those of the checkpoint. On rollback the
files are cut back to them. The rank waits: importing json takes longer than all that is done here.
"""

from __future__ import annotations

import os
import stat
import sys
from _json import encode_basestring_ascii as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITABLE = (os.O_WRONLY, os.O_RDWR)


def main(pid: int, target: str) -> None:
    sizes: dict[str, int] = {}
    for process in _tree(pid):
        sizes.update(_writable_files(process))
    listed = ", ".join(f"{quoted(path)}: {size}" for path, size in sizes.items())
    with open(target, "w") as file:
        file.write(f'{{"pid": {pid}, "sizes": {{{listed}}}}}')


def _tree(pid: int) -> Iterator[int]:
    """`pid` and everything below it."""
    yield pid
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            below = file.read().split()
        for child in below:
            yield from _tree(int(child))


def _writable_files(pid: int) -> Iterator[tuple[str, int]]:
    """Regular files that `pid` has open for writing and that still have a name."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        found = os.stat(f"/proc/{pid}/fd/{number}")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink == 0:
            continue
        with open(f"/proc/{pid}/fdinfo/{number}") as file:
            flags = next(line.split()[1] for line in file if line.startswith("flags:"))
        if int(flags, 8) & os.O_ACCMODE in _WRITABLE:
            yield os.readlink(f"/proc/{pid}/fd/{number}"), found.st_size


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
