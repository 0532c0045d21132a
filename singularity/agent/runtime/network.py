"""Gives each sandbox an address of its own, on a bridge that all nodes of this machine share.

The bridge lives in a network namespace of its own: the machine's interfaces, routes and firewall
are not touched, and removing that namespace removes every trace. It does not reach other
machines, nor the world. Without the right to make one, ranks share the machine's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, Protocol

from singularity.primitives.errors import SandboxFailed

_NAME_MOST: Final = 15  # characters of an interface's name, says the kernel
_HOSTS_A_NODE: Final = 256
_EXISTS: Final = "File exists"
_TRIES: Final = 64
_MAKE_S: Final = 3.0


class Network(Protocol):
    """`isolated`: a sandbox has a network namespace of its own, to be attached."""

    @property
    def isolated(self) -> bool: ...

    def attach(self, pid: int) -> str:
        """Wire the network namespace of `pid`; its address, "" for the machine's own."""

    def destroy(self) -> None:
        """Remove whatever is shared by all sandboxes. Idempotent."""


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """Ranks share the machine's network. `reason` says why."""

    reason: str
    isolated: bool = False

    def attach(self, pid: int) -> str:
        """There is nothing to wire."""
        return ""

    def destroy(self) -> None:
        """Nothing was made."""


class BridgeNetwork:
    """`name` is unique per planet; `node_index` tells the nodes that share the bridge apart.

    Node i of 10.77.0.0/16 gives out 10.77.i.1 to 10.77.i.254, each in turn, so that an address
    comes back only long after its last user is gone.
    """

    isolated: Final = True

    def __init__(self, name: str, subnet: str, node_index: int) -> None:
        network = IPv4Network(subnet)
        if (node_index + 1) * _HOSTS_A_NODE > network.num_addresses:
            raise SandboxFailed(f"subnet {subnet} has no room for node {node_index}: use a /16")
        if len(f"{name}-ffff") > _NAME_MOST:
            raise SandboxFailed(f"bridge name {name!r} is longer than {_NAME_MOST - 5} characters")
        self.name, self._network, self._node_index = name, network, node_index
        self._lock = threading.Lock()
        self._last = int.from_bytes(os.urandom(1)) % (_HOSTS_A_NODE - 2)
        self._make()

    def attach(self, pid: int) -> str:
        for _ in range(_TRIES):
            number = self._next()
            if self._wire(number, pid):
                return self._address(number)
        raise SandboxFailed(f"{_TRIES} addresses of bridge {self.name} in a row are taken")

    def destroy(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def _make(self) -> None:
        made = _ip(["netns", "add", self.name])
        if made and _EXISTS not in made:
            raise SandboxFailed(f"no network of its own: {made}")
        script = ("link add br0 type bridge", "link set br0 up", "link set lo up")
        deadline_s = time.monotonic() + _MAKE_S
        while error := _ip(["-n", self.name, "-force", "-b", "-"], script):
            if _EXISTS in error:
                return  # the bridge itself: another node was faster
            if time.monotonic() > deadline_s:
                raise SandboxFailed(f"no bridge: {error}")
            time.sleep(0.02)  # another node has given the namespace its name, but not more yet

    def _wire(self, number: int, pid: int) -> bool:
        """False when `number` is taken, by a sandbox of an earlier agent perhaps."""
        end, address = f"{self.name}-{number:04x}", self._address(number)
        mac = "02:53:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        outside = (
            f"link add {end} type veth peer name eth0 address {mac} netns {pid}",
            f"link set {end} master br0 up",
        )
        if error := _ip(["-n", self.name, "-b", "-"], outside):
            if _EXISTS in error:
                return False
            raise SandboxFailed(f"cannot wire a sandbox to its bridge: {error}")
        inside = (
            "link set lo up",
            f"addr add {address}/{self._network.prefixlen} dev eth0",
            "link set eth0 up",
        )
        if error := _ip(["-b", "-"], inside, enter=pid):
            raise SandboxFailed(f"cannot give a sandbox its address: {error}")
        return True

    def _next(self) -> int:
        with self._lock:
            self._last = self._last % (_HOSTS_A_NODE - 2) + 1
            return self._node_index * _HOSTS_A_NODE + self._last

    def _address(self, number: int) -> str:
        return str(self._network.network_address + number)


def open_network(bridge: str, subnet: str, node_index: int = 0) -> Network:
    """The bridge if it is asked for and this process may make one, else the machine's network."""
    if not bridge:
        return HostNetwork("no bridge is configured")
    if os.geteuid() != 0:
        return HostNetwork("only root can wire network namespaces together")
    if shutil.which("ip") is None:
        return HostNetwork("the `ip` command (iproute2) is not installed")
    try:
        return BridgeNetwork(bridge, subnet, node_index)
    except SandboxFailed as error:
        return HostNetwork(error.detail)


def _ip(arguments: Sequence[str], script: Sequence[str] = (), enter: int = 0) -> str:
    """Run `ip`, in the network namespace of process `enter` if given; "" or what it complains."""
    prefix = ["nsenter", "-t", str(enter), "-n"] if enter else []
    done = subprocess.run(
        [*prefix, "ip", *arguments],
        input="".join(f"{line}\n" for line in script),
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"ip ended with {done.returncode}"
