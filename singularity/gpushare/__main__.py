"""`python -m singularity.gpushare` is the extender of one cluster, `python -m singularity.gpushare
plugin` the device plugin of one node."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from lightkube.config.kubeconfig import SingleConfig
from pydantic import ValidationError

from singularity.agent.hal.cuda import CudaManager
from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import SingularityError
from singularity.primitives.telemetry import configure_logging, misconfigured

from .app import create_app
from .attending import Attendant
from .cluster import Cluster, configured
from .containers import Containers
from .plugin import Plugin
from .settings import ExtenderSettings, PluginSettings


def extender(config: SingleConfig) -> None:
    settings = ExtenderSettings()
    app = create_app(Cluster(config), SystemClock(), settings.gpushare_body_most_bytes)
    uvicorn.run(
        app,
        host=settings.gpushare_host,
        port=settings.gpushare_port,
        ssl_certfile=settings.gpushare_tls_cert,
        ssl_keyfile=settings.gpushare_tls_key,
        log_level="warning",
    )


async def plugin(config: SingleConfig, settings: PluginSettings) -> None:
    cluster, unit_bytes = Cluster(config), settings.unit_bytes
    containers = Containers(settings.gpushare_root, limits=settings.gpushare_limit)
    serves = Plugin(cluster, settings.gpushare_node, containers, unit_bytes)
    look = CudaManager().devices
    attendant = Attendant(serves, cluster, containers, look, unit_bytes)
    await attendant.run(settings.gpushare_node, settings.gpushare_plugins)


def main(words: list[str]) -> int:
    configure_logging()
    if words not in ([], ["plugin"]):
        print("usage: python -m singularity.gpushare [plugin]", file=sys.stderr)
        return 2
    try:
        if words:
            asyncio.run(plugin(configured(), PluginSettings()))
        else:
            extender(configured())
    except ValidationError as error:
        print(misconfigured(error), file=sys.stderr)
        return 2
    except SingularityError as error:
        print(error.detail, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
