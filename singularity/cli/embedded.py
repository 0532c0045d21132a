"""A whole planet on this machine: stores, control plane and one agent per node, kept alive.

Everything is a process of its own, started as an operator would start it and told what it needs
by its environment, so that killing any of them is what it would be in production.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import httpx

from singularity.primitives.errors import Unavailable

from .fleet import Fleet, NodePlace
from .homes import LEASE_S, PACKAGE_ROOT, Kept, hold, recall
from .nodes import (
    kill_sandboxes,
    remove_bridge,
    remove_cgroups,
    remove_scratch,
    scratch_directory,
    search_path,
)
from .processes import Child, Command, Supervisor, wait_until
from .routers import admit
from .servers import Postgres, Server, Valkey, free_port, port_is_free, write_secret

_LOOPS: Final = ("schedule", "relay", "watch", "tidy")
_MIGRATE_S: Final = 120.0
_READY_S: Final = 180.0  # a machine that has much else to do is slow, not broken
_SUBNET: Final = "10.83.0.0/16"  # seen only inside the planet's own network namespace
_PACKAGE_ROOT: Final = PACKAGE_ROOT
_POLICY: Final = {"SINGULARITY_POLICY_NODE_LOST_AFTER_S": "8"}  # its nodes are only processes


class Planet:
    """`data` holds all of it; started again there, nothing is lost.

    `policy` overrides single fields of the scheduler's policy (`{"node_lost_after_s": "20"}`).
    Process names: `postgres`, `valkey`, `api`, `schedule`, `relay`, `watch`, `tidy`,
    `agent-<node>`, `router-<region>`.
    """

    def __init__(
        self,
        data: Path,
        fleet: Fleet | None = None,
        *,
        port: int | None = None,
        policy: Mapping[str, str] | None = None,
        heartbeat_every_s: float = 1.0,
        lease_s: float = LEASE_S,
    ) -> None:
        """`fleet` None is that of the last start, or the default one. `port` None likewise."""
        self.data = data.resolve()
        self._wanted_fleet, self._wanted_port = fleet, port
        self._policy = {f"SINGULARITY_POLICY_{k.upper()}": v for k, v in (policy or {}).items()}
        self._timing = {
            "SINGULARITY_HEARTBEAT_EVERY_S": str(heartbeat_every_s),
            "SINGULARITY_LEASE_S": str(lease_s),
        }
        self._kept = Kept()
        self._supervisor = Supervisor()
        self._lock: IO[bytes] | None = None
        self._scratch: Path | None = None

    # -- what callers want to know ---------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._kept.port}"

    @property
    def token(self) -> str:
        """The admin's. Also in `<data>/admin.token`."""
        return self._kept.admin_token

    @property
    def id(self) -> str:
        """Part of the names of what it has outside `data`: its bridge, its memory."""
        return self._kept.id

    @property
    def volume(self) -> Path:
        return self.data / "volume"

    @property
    def nodes(self) -> tuple[NodePlace, ...]:
        return self._kept.fleet.nodes()

    def router_url(self, region: str) -> str:
        """Where its services are asked."""
        return self._kept.routers[region].url

    def node_dir(self, node: str) -> Path:
        return self.data / "nodes" / node

    def process(self, name: str) -> int | None:
        """Its pid, None while it is down. Raises KeyError for a name nobody has."""
        return self._supervisor.get(name).pid

    # -- life ------------------------------------------------------------------------------------

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Returns when the API answers, every node has joined and routers know what there is.
        What is waited for meanwhile is told to `say`.

        Raises PlanetBusy if `data` is in use, Unavailable if something does not come up.
        """
        self._lock = hold(self.data)
        try:
            self._recall()
            self._reap()
            say("starting the stores")
            database_url, broker_url = self._start_stores()
            env = self._control_environment(database_url, broker_url)
            for place in self.nodes:  # they examine the machine while the schema is made
                self._start_agent(place)
            say("bringing the schema up to date")
            self._migrate(env)
            say("starting the control plane; nodes examine the machine and join")
            self._start_control(env)
            self._wait_ready()
            say("starting routers")
            self._start_routers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leaves no process, port, namespace or file in memory behind. Jobs go on from their last
        checkpoint at the next start. Idempotent."""
        if self._lock is None:
            return
        agents = [name for name in self._supervisor.names() if name.startswith("agent-")]
        routers = [name for name in self._supervisor.names() if name.startswith("router-")]
        self._supervisor.stop([*_LOOPS, *routers], agents, ["api"])
        self._clear_nodes()
        self._supervisor.stop(["valkey"], ["postgres"])
        self._supervisor = Supervisor()
        self._lock.close()
        self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- misfortune, on demand -------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9 one process; its supervisor brings it back."""
        self._supervisor.kill(name)

    def kill_node(self, node: str) -> None:
        """Take the power from a node: agent and ranks die at once, until `revive_node`."""
        self._supervisor.hold_down(f"agent-{node}")
        kill_sandboxes([self.node_dir(node)])

    def revive_node(self, node: str) -> None:
        self._supervisor.release(f"agent-{node}")

    # -- starting --------------------------------------------------------------------------------

    def _recall(self) -> None:
        kept = recall(self.data)
        fleet = self._wanted_fleet or kept.fleet
        fleet.nodes()  # refuses names used twice before anything is started
        self._kept = kept.model_copy(update={"fleet": fleet, "port": kept.port})

    def _reap(self) -> None:
        """End what an earlier `up`, killed itself, left running; ranks stay, for their agents."""
        pids = sorted((self.data / "pids").glob("*"))
        for path in pids:
            if path.name not in ("postgres", "valkey"):  # they see to it themselves, later
                Child(path.name, Command(argv=(), grace_s=3.0), self.data).stop()
        self._kept = self._kept.model_copy(update={"port": self._choose_port()})
        self._kept.save(self.data)
        write_secret(self.data / "admin.token", self._kept.admin_token + "\n")

    def _choose_port(self) -> int:
        if self._wanted_port:
            if not port_is_free(self._wanted_port):
                raise Unavailable(f"port {self._wanted_port} is taken: name another with --port")
            return self._wanted_port
        return self._kept.port if self._kept.port and port_is_free(self._kept.port) else free_port()

    def _start_stores(self) -> tuple[str, str]:
        """Postgres and Valkey, side by side, unless the environment names others."""
        database_url = os.environ.get("SINGULARITY_DATABASE_URL", "")
        broker_url = os.environ.get("SINGULARITY_BROKER_URL", "")
        postgres = Postgres(self.data / "postgres", self.data)
        valkey = Valkey(self.data / "valkey", self.data)
        servers: list[Server] = [] if database_url else [postgres]
        servers += [] if broker_url else [valkey]

        def bring_up(server: Server) -> None:
            server.start()
            self._supervisor.add(server.child)

        with ThreadPoolExecutor() as pool:  # left only when both are up, or have failed
            for done in [pool.submit(bring_up, server) for server in servers]:
                done.result()
        return database_url or postgres.url, broker_url or valkey.url

    def _migrate(self, env: Mapping[str, str]) -> None:
        argv = [sys.executable, "-m", "singularity.api", "migrate"]
        with (self.data / "logs" / "migrate.log").open("wb+") as log:
            done = subprocess.run(
                argv, env=env, stdout=log, stderr=log, cwd="/", timeout=_MIGRATE_S, check=False
            )
            log.seek(0)
            said = log.read().decode(errors="replace")[-2000:].strip()
        if done.returncode:
            raise Unavailable(f"the database schema cannot be brought up to date:\n{said}")

    def _start_control(self, env: Mapping[str, str]) -> None:
        module = (sys.executable, "-m", "singularity.api")
        self._supervisor.add(Child("api", Command((*module, "serve"), env), self.data))
        for loop in _LOOPS:
            self._supervisor.add(Child(loop, Command((*module, "loop", loop), env), self.data))

    def _start_agent(self, place: NodePlace) -> None:
        argv = (sys.executable, "-m", "singularity.agent")
        command = Command(argv, self._agent_environment(place))
        self._supervisor.add(Child(f"agent-{place.name}", command, self.data))

    def _start_routers(self) -> None:
        regions, known = sorted(self._kept.fleet.regions), self._kept.routers
        with admit(self.url, self.token) as door:
            places = {region: door.place(region, known.get(region)) for region in regions}
        self._kept = self._kept.model_copy(update={"routers": places})
        self._kept.save(self.data)
        for region, place in places.items():
            data = self.data / "routers" / region
            env = self._base_environment() | place.environment(region, self.url, data)
            argv = (sys.executable, "-m", "singularity.router")
            self._supervisor.add(Child(f"router-{region}", Command(argv, env), self.data))
        for region, place in places.items():
            if not wait_until(place.ready, _READY_S):
                log = self.data / "logs" / f"router-{region}.log"
                raise Unavailable(f"the router of {region} has no table; see {log}")

    def _wait_ready(self) -> None:
        """Until the API answers and lists every node as heard of."""
        deadline_s = time.monotonic() + _READY_S
        wanted = {place.name for place in self.nodes}
        headers = {"Authorization": f"Bearer {self.token}"}
        missing = "the API does not answer"
        with httpx.Client(base_url=self.url, headers=headers, timeout=5.0) as client:
            while time.monotonic() < deadline_s:
                with suppress(httpx.TransportError):
                    answer = client.get("/v1/nodes", params={"limit": 1000})
                    missing = f"the API answers {answer.status_code}: {answer.text[:200]}"
                    if answer.is_success:
                        items = answer.json()["items"]
                        absent = wanted - {n["id"] for n in items if not n["lost"]}
                        missing = f"these nodes do not join: {', '.join(sorted(absent))}"
                        if not absent:
                            return
                time.sleep(0.05)
        raise Unavailable(f"the planet does not come up, {missing}; see {self.data / 'logs'}")

    # -- environments ----------------------------------------------------------------------------

    def _base_environment(self) -> dict[str, str]:
        """Ours, with the policy the user set; no other variable of this name is meant for them."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SINGULARITY_") or name.startswith("SINGULARITY_POLICY_")
        }
        paths = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return _POLICY | kept | self._policy | {"PYTHONPATH": os.pathsep.join(paths)}

    def _control_environment(self, database_url: str, broker_url: str) -> dict[str, str]:
        state = self.data / "state"
        for directory in (state, self.volume, self.data / "run"):
            directory.mkdir(parents=True, exist_ok=True)
        return {
            **self._base_environment(),
            **self._timing,
            "SINGULARITY_DATABASE_URL": database_url,
            "SINGULARITY_BROKER_URL": broker_url,
            "SINGULARITY_DATA": str(state),
            "SINGULARITY_VOLUME": str(self.volume),
            "SINGULARITY_HOST": "127.0.0.1",
            "SINGULARITY_PORT": str(self._kept.port),
            "SINGULARITY_JOIN_TOKEN": self._kept.join_token,
            "SINGULARITY_ADMIN_TOKEN": self._kept.admin_token,
        }

    def _agent_environment(self, place: NodePlace) -> dict[str, str]:
        if self._scratch is None:
            self._scratch = scratch_directory(f"singularity-{self._kept.id}")
        scratch = self._scratch / place.name if self._scratch else None
        return {
            **self._base_environment(),
            "PATH": search_path(os.environ),
            "SINGULARITY_API_URL": self.url,
            "SINGULARITY_JOIN_TOKEN": self._kept.join_token,
            "SINGULARITY_NODE": place.name,
            "SINGULARITY_NODE_INDEX": str(place.index),
            "SINGULARITY_REGION": place.region,
            "SINGULARITY_CLUSTER": place.cluster,
            "SINGULARITY_RACK": place.rack,
            "SINGULARITY_DEVICE": place.device,
            "SINGULARITY_DEVICES": str(place.devices),
            "SINGULARITY_NODE_DIR": str(self.node_dir(place.name)),
            "SINGULARITY_RUN_DIR": str(self.data / "run"),
            "SINGULARITY_VOLUME": str(self.volume),
            "SINGULARITY_CRIU": os.environ.get("SINGULARITY_CRIU", ""),
            "SINGULARITY_BRIDGE": f"sgl{self._kept.id}",
            "SINGULARITY_SUBNET": _SUBNET,
            **({"SINGULARITY_SCRATCH": str(scratch)} if scratch else {}),
        }

    # -- stopping --------------------------------------------------------------------------------

    def _clear_nodes(self) -> None:
        """Whatever the nodes have left in the kernel and in memory, nodes of older fleets too."""
        node_dirs = sorted((self.data / "nodes").glob("*"))
        kill_sandboxes(node_dirs)
        remove_cgroups(node_dirs)
        remove_bridge(f"sgl{self._kept.id}")
        if self._scratch is not None:
            remove_scratch(self._scratch)
            self._scratch = None
