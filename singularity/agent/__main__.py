"""`python -m singularity.agent` runs a node; `letterbox NODE` and `doctor` are its helpers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from pydantic import ValidationError

from singularity.primitives.errors import SingularityError
from singularity.primitives.nodes import NodeId
from singularity.primitives.telemetry import configure_logging, misconfigured

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    configure_logging()
    match list(argv):
        case []:
            return _run()
        case ["letterbox", node]:
            from .letterbox import for_letters_only, serve

            lines = for_letters_only(sys.stdout.fileno(), sys.stderr.fileno())
            serve(os.environ["SINGULARITY_BROKER_URL"], NodeId(node), lines, sys.stdin)
            return 0
        case ["doctor"]:
            from .doctor import examine

            print(json.dumps(examine()))
            return 0
    print("usage: python -m singularity.agent [letterbox NODE | doctor]", file=sys.stderr)
    return 2


def _run() -> int:
    from .node import open_node
    from .settings import AgentSettings

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = AgentSettings()
    except ValidationError as error:
        print(misconfigured(error), file=sys.stderr)
        return 2
    try:
        with open_node(settings) as (agent, executor):
            agent.run(executor, stop)
    except SingularityError as error:
        log.error("no node", extra={"reason": error.detail})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
