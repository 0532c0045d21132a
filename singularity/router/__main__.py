"""`python -m singularity.router` is the reverse proxy of one region."""

from __future__ import annotations

import sys

import uvloop
from pydantic import ValidationError

from singularity.primitives.telemetry import configure_logging, misconfigured

from .server import run
from .settings import RouterSettings


def main() -> int:
    configure_logging()
    try:
        settings = RouterSettings()
    except ValidationError as error:
        print(misconfigured(error), file=sys.stderr)
        return 2
    uvloop.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
