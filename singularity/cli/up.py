"""`singularity up`: a planet in the foreground."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from .embedded import Planet
from .fleet import load_fleet
from .output import say
from .servers import port_is_free
from .session import Session, save

DEFAULT_PORT: Final = 8470
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main_up(fleet: Path | None, data: Path, port: int | None) -> int:
    """`singularity up`: run until ^C or SIGTERM. Returns the exit code."""
    wanted = load_fleet(fleet) if fleet is not None else None
    fresh = not (data / "planet.json").exists()
    if port is None and fresh and port_is_free(DEFAULT_PORT):
        port = DEFAULT_PORT
    planet = Planet(data, wanted, port=port)
    ending = threading.Event()
    restore = {number: signal.signal(number, _interrupt) for number in _ENDINGS}
    try:
        began_s = time.monotonic()
        planet.start(say)
        for number in _ENDINGS:
            signal.signal(number, lambda *_: ending.set())
        took_s = time.monotonic() - began_s
        save(Session(url=planet.url, token=planet.token))
        _announce(planet, took_s)
        ending.wait()
        print("stopping", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("stopped before it was up", file=sys.stderr)
        return 1
    finally:
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)  # a second ^C must not leave half of it behind
        planet.stop()
        for number, handler in restore.items():
            signal.signal(number, handler)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _announce(planet: Planet, took_s: float) -> None:
    regions = {place.region for place in planet.nodes}
    print(planet.url, flush=True)
    print(
        f"{len(planet.nodes)} nodes in {len(regions)} regions, up in {took_s:.1f} s; "
        f"the admin's token is in {planet.data / 'admin.token'}; ^C stops everything",
        file=sys.stderr,
        flush=True,
    )
    told = f"the dashboard: {planet.url}/ui/; `singularity dashboard` signs a browser in"
    print(told, file=sys.stderr, flush=True)
    for region in sorted(regions):
        print(f"services in {region}: {planet.router_url(region)}", file=sys.stderr, flush=True)
