"""`python -m singularity.api serve | loop schedule|relay|watch|tidy | migrate | backup | restore`.

The last three say what they did, or why not, as one line of JSON: `singularity admin` reads it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from pydantic import ValidationError

from singularity.primitives.errors import InvalidSpec, SingularityError
from singularity.primitives.telemetry import configure_logging, misconfigured

from . import interpreter, upkeep
from .app import create_app
from .loops import run_relay, run_schedule, run_tidy, run_watch
from .problems import document
from .settings import Settings

_LOOPS: Final[dict[str, Callable[[Settings, threading.Event], None]]] = {
    "schedule": run_schedule,
    "relay": run_relay,
    "watch": run_watch,
    "tidy": run_tidy,
}
_GRACE_S: Final = 5


class _Server(uvicorn.Server):
    """Ends streams as soon as it is told to go; else it would wait for their clients."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._going = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._going.set()
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> None:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(config, app.state.services.stop).run()


def loop(name: str, settings: Settings) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _LOOPS[name](settings, stop)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m singularity.api", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="answer HTTP")
    schema = commands.add_parser("migrate", help="bring the database up to date")
    schema.add_argument("--check", action="store_true", help="only say what is missing")
    saved = commands.add_parser("backup", help="write all that must not be lost into one file")
    saved.add_argument("--with-store", action="store_true", help="also what is in the volume")
    back = commands.add_parser("restore", help="out of a backup, into an empty database")
    for either in (saved, back):
        either.add_argument("path", type=Path)
        either.add_argument("--home", type=Path, help="of a planet on one machine")
    one = commands.add_parser("loop", help="run one of the loops beside the server")
    one.add_argument("name", choices=sorted(_LOOPS))
    asked = parser.parse_args()
    configure_logging()
    interpreter.prepare()
    try:
        settings = Settings()
    except ValidationError as error:
        print(misconfigured(error), file=sys.stderr)
        return 2
    except InvalidSpec as error:  # of the policy
        print(error.detail, file=sys.stderr)
        return 2
    if asked.command == "serve":
        serve(settings)
    elif asked.command == "loop":
        loop(asked.name, settings)
    else:
        return _keep(asked, settings)
    return 0


def _keep(asked: argparse.Namespace, settings: Settings) -> int:
    try:
        match asked.command:
            case "backup":
                done = upkeep.save(settings, asked.path, asked.home, asked.with_store)
            case "restore":
                done = upkeep.bring_back(settings, asked.path, asked.home)
            case _:
                done = upkeep.bring_up(settings, check=asked.check)
    except SingularityError as error:
        print(json.dumps(document(error)))
        print(error.detail, file=sys.stderr)
        return 1
    print(json.dumps(done, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
