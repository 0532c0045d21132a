"""The extender as a cluster has it: several replicas, servers that fail, a process of its own."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from lightkube import codecs
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster as Server
from lightkube.config.models import Context

from singularity.gpushare.app import create_app
from singularity.gpushare.cluster import Cluster
from singularity.gpushare.settings import ExtenderSettings
from singularity.primitives.clock import SystemClock
from tests.standin.gpushare import LIMIT_S, Site, until
from tests.standin.kubernetes import Object, node, pod

PREFIX = "/gpushare-scheduler"
DEPLOY = Path(__file__).parents[2] / "deploy" / "gpushare"


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.close()


def args(site: Site, name: str, where: str = "g1") -> Object:
    uid = site.cluster.get("pods", "default", name)["metadata"]["uid"]
    return {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": where}


def bound(site: Site) -> list[tuple[str, int]]:
    """Pods that are, and their devices."""
    pods, _ = site.cluster.listed("pods", "default")
    return [
        (p["metadata"]["name"], int(p["metadata"]["annotations"]["ALIYUN_COM_GPU_MEM_IDX"]))
        for p in pods
        if "nodeName" in p["spec"]
    ]


def test_replicas_that_bind_at_once_give_no_device_twice(site: Site) -> None:
    """The original over-commits in each of five rounds. A binding takes a while, so that the other
    replica looks meanwhile."""
    site.cluster.binding_s = 0.2
    site.cluster.put("nodes", node("g1", 14, 2))
    site.start()
    other = site.another()
    for turn in range(5):
        names = [f"p{turn}-{n}" for n in range(10)]
        for name in names:
            site.cluster.put("pods", pod(name, [3]))
        replicas = (site.url, other)
        with ThreadPoolExecutor(len(names)) as pool:
            asked = [
                pool.submit(
                    httpx.post,
                    f"{replicas[n % 2]}{PREFIX}/bind",
                    json=args(site, name),
                    timeout=LIMIT_S,
                )
                for n, name in enumerate(names)
            ]
            told = sorted(each.result().json()["Error"] for each in asked)
        assert told[:4] == [""] * 4 and all("Insufficient GPU Memory" in each for each in told[4:])
        assert sorted(index for _, index in bound(site)) == [0, 0, 1, 1]
        for name in names:
            site.cluster.delete("pods", "default", name)


def test_a_pod_that_the_server_does_not_bind_leaves_its_device_to_others(site: Site) -> None:
    site.cluster.put("nodes", node("g1", 7, 1))
    site.cluster.put("pods", pod("first", [5]))
    site.cluster.put("pods", pod("second", [5]))
    site.start()
    site.cluster.refuse_bindings = "an admission webhook said no"
    answer = site.ask("POST", f"{PREFIX}/bind", json=args(site, "first"))
    assert answer.status_code == 500 and "webhook said no" in answer.json()["Error"]
    site.cluster.refuse_bindings = ""
    assert site.ask("POST", f"{PREFIX}/bind", json=args(site, "second")).status_code == 200
    assert bound(site) == [("second", 0)]


def test_what_changed_while_the_server_was_away_is_known_again(site: Site) -> None:
    site.cluster.put("nodes", node("g1", 7, 1))
    site.start()
    site.cluster.forget_log()  # as a server does that compacts its history
    site.cluster.put("nodes", node("g2", 7, 1))
    asked = {"Pod": pod("p", [5]), "NodeNames": ["g1", "g2"]}

    def both() -> bool:
        found = site.ask("POST", f"{PREFIX}/filter", json=asked).json()
        return bool(found["NodeNames"] == ["g1", "g2"])

    until(both)


def test_nodes_that_shrink_hold_less_and_unknown_ones_are_said_to_be(site: Site) -> None:
    site.cluster.put("nodes", node("g1", 14, 2))
    site.start()
    shown = site.ask("GET", f"{PREFIX}/inspect/nobody")
    assert shown.status_code == 404 and 'node "nobody" not found' in shown.json()["Error"]
    there = site.cluster.get("nodes", "", "g1")
    there["status"]["capacity"] = {"aliyun.com/gpu-mem": "7", "aliyun.com/gpu-count": "1"}
    site.cluster.put("nodes", there)

    def smaller() -> bool:
        return len(site.ask("GET", f"{PREFIX}/inspect/g1").json()["nodes"][0]["devs"]) == 1

    until(smaller)


def test_what_a_scheduler_cannot_mean_is_refused(site: Site) -> None:
    site.start()
    refused = site.ask("POST", f"{PREFIX}/prioritize", content=b"{")
    assert refused.status_code == 400 and "not JSON" in refused.json()["Error"]
    refused = site.ask("POST", f"{PREFIX}/preempt", json={"Pod": pod("p", [1])})
    assert refused.status_code == 400 and "NodeNameToVictims" in refused.json()["Error"]
    huge = site.ask("POST", f"{PREFIX}/filter", content=b"x" * ((1 << 20) + 1))
    assert huge.status_code == 200 and "1048576 bytes" in huge.json()["Error"]
    nothing = site.ask("POST", f"{PREFIX}/bind", json={"PodName": "p"})
    assert nothing.status_code == 500 and "must be given" in nothing.json()["Error"]


# ---------------------------------------------------------------- what is deployed
def manifests(name: str) -> list[Object]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def granted() -> set[tuple[str, str, str]]:
    """Verbs and resources, everywhere or in a namespace."""
    return {
        (verb, resource, role["metadata"].get("namespace", ""))
        for role in manifests("access.yaml")
        for rule in role.get("rules", ())
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_it_may_do_what_it_does_and_no_more(site: Site) -> None:
    """By what the API server was asked for, a node that came late among it."""
    site.cluster.put("nodes", node("g1", 7, 1))
    site.start()
    for name in ("a", "b"):
        site.cluster.put("pods", pod(name, [2]))
        assert site.ask("POST", f"{PREFIX}/bind", json=args(site, name)).status_code == 200
    assert site.ask("POST", f"{PREFIX}/bind", json=args(site, "a", "late")).status_code == 500
    asked, may = site.cluster.asked, granted()
    missing = {a for a in asked if a not in may and (a[0], a[1], "") not in may}
    assert not missing
    rarely = {("get", "nodes", "")}  # where the watch has not told of it yet
    assert {(verb, what) for verb, what, _ in may - rarely} <= {(v, w) for v, w, _ in asked}


def test_manifests_are_what_kubernetes_takes_and_meet() -> None:
    for name in ("access.yaml", "extender.yaml"):
        loaded = codecs.load_all_yaml((DEPLOY / name).read_text())
        assert len(loaded) == len(manifests(name))
    deployment, service = manifests("extender.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    default = ExtenderSettings.model_fields["gpushare_port"].default
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == default
    (scheduler,) = manifests("scheduler.yaml")
    (extender,) = scheduler["extenders"]
    meta = service["metadata"]
    assert (
        extender["urlPrefix"] == f"http://{meta['name']}.{meta['namespace']}.svc:{default}{PREFIX}"
    )
    verbs = {extender[f"{verb}Verb"] for verb in ("filter", "prioritize", "preempt", "bind")}
    config = SingleConfig("none", Context(cluster="none"), Server(server="http://127.0.0.1:1"))
    routes = {getattr(r, "path", "") for r in create_app(Cluster(config), SystemClock(), 1).routes}
    assert {f"{PREFIX}/{verb}" for verb in verbs} <= routes


# ---------------------------------------------------------------- a process of its own
def started(tmp_path: Path, url: str, **env: str) -> subprocess.Popen[str]:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "site",
        "contexts": [{"name": "site", "context": {"cluster": "site", "user": "extender"}}],
        "clusters": [{"name": "site", "cluster": {"server": url}}],
        "users": [{"name": "extender", "user": {}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    known = {**os.environ, "KUBECONFIG": str(tmp_path / "config"), **env}
    command = [sys.executable, "-m", "singularity.gpushare"]
    return subprocess.Popen(command, env=known, stderr=subprocess.PIPE, text=True)


def certificate(directory: Path) -> tuple[Path, Path]:
    """For this machine, by itself."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    words = ("-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2")
    more = ("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert))
    subprocess.run(["openssl", "req", *words, *more], check=True, capture_output=True)
    return cert, key


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_it_runs_by_a_kubeconfig_and_speaks_tls(site: Site, tmp_path: Path) -> None:
    site.cluster.put("nodes", node("g1", 7, 1))
    cert, key = certificate(tmp_path)
    port = free_port()
    settings = {"HOST": "127.0.0.1", "PORT": str(port), "TLS_CERT": str(cert), "TLS_KEY": str(key)}
    env = {f"SINGULARITY_GPUSHARE_{name}": value for name, value in settings.items()}
    process = started(tmp_path, site.api_url, **env)
    trust = ssl.create_default_context(cafile=str(cert))
    try:
        deadline_s = time.monotonic() + LIMIT_S

        def answers() -> bool:
            assert process.poll() is None and time.monotonic() < deadline_s
            try:
                ready = httpx.get(f"https://localhost:{port}/readyz", verify=trust)
            except httpx.TransportError:
                return False
            return ready.status_code == 200

        until(answers)
        shown = httpx.get(f"https://localhost:{port}{PREFIX}/inspect", verify=trust).json()
        assert [each["name"] for each in shown["nodes"]] == ["g1"]
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KUBECONFIG": "/nowhere"}, "no cluster is configured"),
        ({"SINGULARITY_GPUSHARE_PORT": "high"}, "SINGULARITY_GPUSHARE_PORT: "),
        ({"SINGULARITY_GPUSHARE_TLS_KEY": "key.pem"}, "belong together"),
    ],
)
def test_it_says_what_is_wrong_with_its_settings(
    tmp_path: Path, env: dict[str, str], said: str
) -> None:
    process = started(tmp_path, "http://127.0.0.1:1", **env)
    _, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2 and said in told
