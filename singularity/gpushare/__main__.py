"""`python -m singularity.gpushare` is the extender of one cluster."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import Unavailable
from singularity.primitives.telemetry import configure_logging, misconfigured

from .app import create_app
from .cluster import Cluster, configured
from .settings import ExtenderSettings


def main() -> int:
    configure_logging()
    try:
        settings, config = ExtenderSettings(), configured()
    except ValidationError as error:
        print(misconfigured(error), file=sys.stderr)
        return 2
    except Unavailable as error:
        print(error.detail, file=sys.stderr)
        return 2
    app = create_app(Cluster(config), SystemClock(), settings.gpushare_body_most_bytes)
    uvicorn.run(
        app,
        host=settings.gpushare_host,
        port=settings.gpushare_port,
        ssl_certfile=settings.gpushare_tls_cert,
        ssl_keyfile=settings.gpushare_tls_key,
        log_level="warning",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
