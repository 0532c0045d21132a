"""The device plugin between a stand-in for kubelet and one for the API server: which GPU a
container is given, and that it is held to its share of it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from lightkube import codecs

from singularity.agent.hal.faces import DeviceFacts
from singularity.gpushare.attending import Attendant
from singularity.gpushare.cluster import Cluster
from singularity.gpushare.containers import INSIDE, Containers
from singularity.gpushare.plugin import Plugin
from tests.standin.cuda import Client, compiler, stand_in
from tests.standin.gpushare import Site, until
from tests.standin.kubelet import Kubelet
from tests.standin.kubernetes import Object, node, pod

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
UNIT = 1_000_000
DEPLOY = Path(__file__).parents[2] / "deploy" / "gpushare"


def gpu(index: int, units: int = 7, health: str = "") -> DeviceFacts:
    return DeviceFacts(index, f"GPU-{index}", "played", units * UNIT, 0, health=health)


class Node:
    """A node with two GPUs, its plugin, and an extender."""

    def __init__(self, root: Path) -> None:
        self.site = Site()
        self.site.cluster.put("nodes", node("g1", 14, 2))
        self.site.start()
        self.gpus = [gpu(0), gpu(1)]
        self._short = tempfile.TemporaryDirectory()  # the kernel takes no long names of sockets
        self._plugins = Path(self._short.name)
        self.kubelet = Kubelet(self._plugins)
        self._root, self._loop = root, asyncio.new_event_loop()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: bool(self.kubelet.devices))

    def _run(self) -> None:
        async def work() -> None:
            cluster = Cluster(self.site.config())
            containers = Containers(self._root / "containers", limits=True)
            plugin = Plugin(cluster, "g1", containers, UNIT)
            attendant = Attendant(plugin, cluster, containers, lambda: list(self.gpus), UNIT)
            work = asyncio.create_task(attendant.run("g1", self._plugins))
            while not self._ended.is_set():
                await asyncio.sleep(0.02)
                assert not work.done(), work.exception()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await cluster.close()

        self._loop.run_until_complete(work())

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)
        self._loop.close()
        self.kubelet.close()
        self.site.close()
        self._short.cleanup()

    def bind(self, name: str, *gpu_mem: int) -> None:
        self.site.cluster.put("pods", pod(name, gpu_mem))
        uid = self.site.cluster.get("pods", "default", name)["metadata"]["uid"]
        said = {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": "g1"}
        assert self.site.ask("POST", "/gpushare-scheduler/bind", json=said).status_code == 200

    def said(self, name: str) -> Mapping[str, str]:
        found: Object = self.site.cluster.get("pods", "default", name)
        return dict(found["metadata"]["annotations"])


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path)
    yield found
    found.close()


def outside(found: Any) -> dict[str, str]:
    """The environment of a container, for a process that has nothing mounted."""
    (mount,) = found.mounts
    assert mount.container_path == INSIDE
    return {key: value.replace(INSIDE, mount.host_path) for key, value in found.envs.items()}


def test_a_container_is_given_the_gpu_of_its_pod_and_held_to_its_share(
    there: Node, tmp_path: Path
) -> None:
    for name, units in (("a", 6), ("b", 2)):
        there.bind(name, units)
    of_b, ids = there.kubelet.allocate(2)
    said = {key: value for key, value in of_b.envs.items() if "GPU" in key or "NVIDIA" in key}
    assert said == {
        "ALIYUN_COM_GPU_MEM_IDX": "1",
        "ALIYUN_COM_GPU_MEM_POD": "2",
        "ALIYUN_COM_GPU_MEM_CONTAINER": "2",
        "ALIYUN_COM_GPU_MEM_DEV": "7",
        "NVIDIA_VISIBLE_DEVICES": "GPU-1",
    }
    assert all(unit.startswith("1.") for unit in ids), "kubelet counts the same GPU as busy"
    assert there.said("b")["ALIYUN_COM_GPU_MEM_ASSIGNED"] == "true"
    assert there.said("a")["ALIYUN_COM_GPU_MEM_ASSIGNED"] == "false"
    of_a, _ = there.kubelet.allocate(6)
    assert of_a.envs["NVIDIA_VISIBLE_DEVICES"] == "GPU-0"
    clients = [
        Client(stand_in(tmp_path), f"p{n}", ["dlsym", "keep", 1_500_000], outside(of_b))
        for n in range(2)
    ]
    try:
        for client, code in zip(clients, ("0", "2"), strict=True):
            assert client.line() == ["up"]
            client.tell()
            assert client.line() == [code, "500000", "2000000"], "two units for both processes"
    finally:
        for client in clients:
            client.end()


def test_containers_of_one_pod_are_given_theirs_one_by_one(there: Node) -> None:
    there.bind("p", 3, 2)
    first, _ = there.kubelet.allocate(3)
    assert there.said("p")["ALIYUN_COM_GPU_MEM_ASSIGNED"] == "false", "one is still to come"
    second, _ = there.kubelet.allocate(2)
    assert there.said("p")["ALIYUN_COM_GPU_MEM_ASSIGNED"] == "true"
    assert first.envs["ALIYUN_COM_GPU_MEM_IDX"] == second.envs["ALIYUN_COM_GPU_MEM_IDX"]
    assert first.envs["ALIYUN_COM_GPU_MEM_POD"] == "5"
    assert first.mounts[0].host_path != second.mounts[0].host_path


def test_a_container_that_nobody_bound_is_not_started(there: Node) -> None:
    there.bind("p", 3)
    with pytest.raises(grpc.RpcError) as caught:
        there.kubelet.allocate(2)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no pod that was bound to g1 waits for 2 units" in caught.value.details()


def test_a_sick_gpu_is_told_to_kubelet_and_to_the_extender_and_so_is_its_recovery(
    there: Node,
) -> None:
    asked = {"Pod": pod("big", [6]), "NodeNames": ["g1"]}
    there.bind("a", 6)

    def fits() -> bool:
        found = there.site.ask("POST", "/gpushare-scheduler/filter", json=asked).json()
        return bool(found["NodeNames"])

    def healthy() -> set[str]:
        return {u.partition(".")[0] for u, h in there.kubelet.devices.items() if h == "Healthy"}

    assert fits()
    there.gpus[1] = gpu(1, health="it has lost memory")
    until(lambda: healthy() == {"0"} and not fits())
    there.gpus[1] = gpu(1)
    until(lambda: healthy() == {"0", "1"} and fits())


def test_gpus_that_differ_are_each_as_large_as_they_are(there: Node) -> None:
    there.gpus[1] = gpu(1, units=12)
    changed = node("g1", 19, 2)  # as kubelet then says
    changed["metadata"] = there.site.cluster.get("nodes", "", "g1")["metadata"]
    there.site.cluster.put("nodes", changed)

    def devices() -> list[int]:
        shown = there.site.ask("GET", "/gpushare-scheduler/inspect/g1").json()["nodes"][0]["devs"]
        return [each["totalGPU"] for each in shown]

    until(lambda: devices() == [7, 12])
    assert len(there.kubelet.devices) == 19


def test_a_kubelet_that_begins_anew_hears_of_the_plugin_again(there: Node) -> None:
    there.kubelet.begin_anew()
    until(lambda: bool(there.kubelet.registered))
    there.bind("p", 3)
    found, _ = there.kubelet.allocate(3)
    assert found.envs["ALIYUN_COM_GPU_MEM_IDX"] == "0"


def test_the_plugin_may_do_what_it_does_and_no_more(there: Node) -> None:
    there.site.cluster.asked.clear()
    there.bind("p", 3)
    there.kubelet.allocate(3)
    there.gpus[1] = gpu(1, health="it has lost memory")
    until(lambda: "Unhealthy" in there.kubelet.devices.values())
    until(lambda: ("patch", "nodes/status", "") in there.site.cluster.asked)
    loaded = list(yaml.safe_load_all((DEPLOY / "plugin.yaml").read_text()))
    assert len(codecs.load_all_yaml((DEPLOY / "plugin.yaml").read_text())) == len(loaded)
    may = {
        (verb, what)
        for each in loaded
        for rule in each.get("rules", ())
        for what in rule["resources"]
        for verb in rule["verbs"]
    }
    of_plugin = {("patch", "pods"), ("patch", "nodes"), ("patch", "nodes/status"), ("list", "pods")}
    asked = {(verb, what) for verb, what, _ in there.site.cluster.asked}
    assert of_plugin <= asked
    writes = {("get", "configmaps"), ("create", "configmaps"), ("update", "configmaps")}
    assert may == of_plugin | writes
