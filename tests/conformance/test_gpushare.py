"""What gpushare-scheduler-extender answers, asked of ours: 43 cases, of which the original passes
those that are marked `same`. The API server is a stand-in, or the real one at $SINGULARITY_KUBE_API
(which loses its pods and nodes)."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster as Server
from lightkube.config.models import Context, User

from tests.standin.gpushare import Site, until
from tests.standin.kubernetes import Object, node, pod
from tests.standin.kubernetes_real import RealCluster, chosen

CASES = json.loads(Path(__file__).with_name("gpushare-cases.json").read_text())["cases"]
_UID = re.compile(r"\$\{uid:(.+?)/(.+?)\}")


class Play(Site):
    """A cluster as a case describes it, and what befalls it."""

    def __init__(self) -> None:
        super().__init__()
        if chosen():
            self.cluster = self._real = RealCluster()  # type: ignore[assignment]

    def config(self) -> SingleConfig:
        if not chosen():
            return super().config()
        server = Server(server=self._real.url, insecure=True)
        user = User(token=self._real.token)
        return SingleConfig("site", Context(cluster="site", user="test"), server, user)

    def close(self) -> None:
        super().close()
        if chosen():
            self._real.close()

    def fill(self, state: Object) -> None:
        for each in state["nodes"]:
            self.cluster.put("nodes", node(**each))
        for each in state["pods"]:
            self.cluster.put("pods", _pod(**each))
        for each in state["configmaps"]:
            self._map(**each)

    def _map(self, namespace: str, name: str, data: dict[str, str]) -> None:
        meta = {"name": name, "namespace": namespace}
        self.cluster.put("configmaps", {"metadata": meta, "data": data})

    def send(self, said: Object) -> httpx.Response:
        text = said["body"] if "body" in said else json.dumps(said.get("json"))
        known = _UID.sub(lambda m: self.cluster.get("pods", m[1], m[2])["metadata"]["uid"], text)
        body = {"content": known} if said["method"] == "POST" else {}
        return self.ask(said["method"], said["path"], **body)

    def take(self, step: Object) -> None:
        match step:
            case {"restart": True}:
                self.restart()
            case {"delete_node": name}:
                self.cluster.delete("nodes", "", name)
            case {"set_phase": {"pod": which, "phase": phase}}:
                found = self.cluster.get("pods", *which.split("/"))
                found["status"]["phase"] = phase
                self.cluster.put("pods", found)
            case {"set_node": said}:
                there = self.cluster.get("nodes", "", said["name"])
                changed = node(**said)
                changed["metadata"] = there["metadata"]
                self.cluster.put("nodes", changed)
            case {"set_configmap": said}:
                self._map(**said)
            case {"parallel": requests}:
                with ThreadPoolExecutor(len(requests)) as pool:
                    answers = list(pool.map(lambda each: self.send(each["request"]), requests))
                done = Counter(answer.status_code == 200 for answer in answers)
                wanted = step["expect_parallel"]
                assert (done[True], done[False]) == (wanted["ok"], wanted["failed"])
                self.nothing_overcommitted()
            case {"request": said, "expect": expected}:
                answers_as(expected, self.send(said))
                for effect in step.get("effects", ()):
                    self.holds(effect)

    def nothing_overcommitted(self) -> None:
        for each in self.ask("GET", "/gpushare-scheduler/inspect").json()["nodes"]:
            assert all(dev["usedGPU"] <= dev["totalGPU"] for dev in each["devs"]), each

    def holds(self, effect: Object) -> None:
        found = self.cluster.get("pods", *effect["pod"].split("/"))
        assert found["spec"].get("nodeName") == effect["nodeName"]
        said, wanted = found["metadata"]["annotations"], effect["annotations"]
        assert set(said) == set(wanted)
        for key, value in wanted.items():
            if value == "@unix-nanoseconds":
                assert abs(int(said[key]) / 1e9 - time.time()) < 3600.0
            else:
                assert said[key] == value, key


def _pod(
    name: str,
    gpu_mem: list[int | None],
    nodeName: str | None = None,  # noqa: N803 (as in the cases)
    annotations: dict[str, str] | None = None,
    namespace: str = "default",
    terminating: bool = False,
) -> Object:
    found = pod(name, gpu_mem, nodeName, annotations, namespace)
    if terminating:
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return found


def answers_as(expected: Object, answer: httpx.Response) -> None:
    assert answer.status_code == expected["status"], answer.text
    if kind := expected.get("content_type"):
        assert answer.headers["content-type"].startswith(kind)
    if "json" in expected:
        alike(expected["json"], answer.json(), "")
    if "text" in expected:
        alike(expected["text"], answer.text, "")


def alike(wanted: Any, found: Any, where: str) -> None:
    """Objects have what is wanted of them, and may have more; an empty one is empty."""
    match wanted:
        case {"@regex": form}:
            assert re.search(form, found, re.IGNORECASE), (where, found)
        case dict():
            assert wanted or not found, (where, found)
            for key, value in wanted.items():
                alike(value, (found or {}).get(key), f"{where}.{key}")
        case list() if wanted and all(isinstance(each, str) for each in wanted):
            assert sorted(found) == sorted(wanted), (where, found)
        case list():
            assert len(found) == len(wanted), (where, found)
            for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
                alike(one, other, f"{where}[{number}]")
        case _:
            assert found == wanted, (where, found)


@pytest.fixture
def play() -> Iterator[Play]:
    found = Play()
    yield found
    found.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']}-{case['want']}")
def test_a_scheduler_is_answered(play: Play, case: Object) -> None:
    play.fill(case["state"])
    play.start()
    steps = case["steps"]
    for number, step in enumerate(steps):
        settles = number > 0 and "settle_s" in steps[number - 1]
        if settles:  # what has changed is told within moments
            until(lambda step=step: _holds(play, step))
        play.take(step)


def _holds(play: Play, step: Object) -> bool:
    try:
        play.take(step)
    except AssertionError:
        return False
    return True
