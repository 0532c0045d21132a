"""What a container needs to be held to its share: a directory of its own on the node, with the shim
and a control page that all of its processes use, mounted into it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from singularity.agent.shim.build import built
from singularity.agent.shim.page import ControlPage

from .matching import Given, Waiting

INSIDE: Final = "/run/singularity-gpushare"  # where it is mounted
_PAGE, _LIBRARY, _UNITS = "page", "libsingularity.so", "units"
_NEAR_NS: Final = 60 * 10**9


class Containers:
    """Directories below `root`, by pod and container. Without `limits` nobody is held to anything,
    and they only say who was given a device. Raises DeviceUnavailable where the shim cannot be
    compiled."""

    def __init__(self, root: Path, *, limits: bool) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._library = built(root / "lib") if limits else None

    def given(self) -> set[Given]:
        """All that were prepared; also before this process began."""
        pods = self._root / "pods"
        return {(path.parent.name, path.name) for path in pods.glob("*/*") if path.is_dir()}

    def prepare(
        self, container: Given, units: int, cap_bytes: int
    ) -> tuple[Path, Mapping[str, str]]:
        """Its directory, to be mounted at INSIDE, and what its environment needs."""
        found = self._root / "pods" / container[0] / container[1]
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir(parents=True)
        (found / _UNITS).write_text(str(units))
        if self._library is None:
            return found, {}
        shutil.copyfile(self._library, found / _LIBRARY)
        page = ControlPage.create(found / _PAGE, self._library)
        env = dict(page.share(cap_bytes))
        page.close()
        (found / _PAGE).chmod(0o666)  # whoever it runs as; nobody else has it mounted
        env |= {"LD_PRELOAD": f"{INSIDE}/{_LIBRARY}", "SINGULARITY_SHIM_PAGE": f"{INSIDE}/{_PAGE}"}
        return found, env

    def keep(self, live: Collection[Waiting]) -> None:
        """Forget pods that are gone. One of the same size that was bound no later may be the one
        that has the directory mounted; then it stays."""
        uids = {pod.claim.uid for pod in live}
        for path in (self._root / "pods").glob("*/*"):
            if path.parent.name in uids:
                continue
            until_ns = path.stat().st_mtime_ns + _NEAR_NS
            size = int((path / _UNITS).read_text())
            if not any(p.since_ns < until_ns and size in dict(p.containers).values() for p in live):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.parent.rmdir()
