"""A real API server in the place of the stand-in: that at $SINGULARITY_KUBE_API, asked with the
token $SINGULARITY_KUBE_TOKEN. It needs no kubelet or scheduler, and loses its pods and nodes."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import httpx

from .kubernetes import Object

_GRACE = {"gracePeriodSeconds": 0}


def chosen() -> str:
    """Its address, "" where none was given."""
    return os.environ.get("SINGULARITY_KUBE_API", "")


class RealCluster:
    """As kubernetes.Cluster, for what the cases of conformance change."""

    def __init__(self) -> None:
        self.url, self.token = chosen(), os.environ.get("SINGULARITY_KUBE_TOKEN", "")
        head = {"Authorization": f"Bearer {self.token}"}
        self._http = httpx.Client(base_url=self.url, headers=head, verify=False, timeout=30.0)
        self._clear()

    def _clear(self) -> None:
        for path in ("/api/v1/pods", "/api/v1/nodes", "/api/v1/namespaces/kube-system/configmaps"):
            for each in self._ask("GET", path)["items"]:
                meta = each["metadata"]
                if path.endswith("configmaps") and "gpu" not in meta["name"]:
                    continue
                where = _path(path.rsplit("/", 1)[1], meta.get("namespace", ""))
                self._ask("DELETE", f"{where}/{meta['name']}", json=_GRACE)

    def put(self, plural: str, found: Object) -> Object:
        meta = found["metadata"]
        where, name = _path(plural, meta.get("namespace", "")), meta["name"]
        self._namespace(meta.get("namespace", ""))
        answer = self._http.get(f"{where}/{name}")
        if answer.status_code == 404:
            made = self._ask("POST", where, json=_whole(plural, found))
        else:
            made = answer.json()
            if plural == "configmaps":
                made = self._ask("PUT", f"{where}/{name}", json=found)
        if plural != "configmaps" and "status" in found:
            made["status"] = {**made.get("status", {}), **found["status"]}
            made = self._ask("PUT", f"{where}/{name}/status", json=made)
        if meta.get("deletionTimestamp"):
            self._ask("DELETE", f"{where}/{name}", json={"gracePeriodSeconds": 3600})
        return made

    def get(self, plural: str, namespace: str, name: str) -> Object:
        found = self._ask("GET", f"{_path(plural, namespace)}/{name}")
        found["metadata"].setdefault("annotations", {})
        return found

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self._ask("DELETE", f"{_path(plural, namespace)}/{name}", json=_GRACE)

    def close(self) -> None:
        self._clear()
        self._http.close()

    def _namespace(self, name: str) -> None:
        if name and self._http.get(f"/api/v1/namespaces/{name}").status_code == 404:
            self._ask("POST", "/api/v1/namespaces", json={"metadata": {"name": name}})

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json()


def _path(plural: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}" if namespace else f"/api/v1/{plural}"


def _whole(plural: str, found: Object) -> Object:
    """What a server wants besides."""
    made = deepcopy(found)
    made["metadata"].pop("deletionTimestamp", None)
    if plural == "pods":
        made["spec"] = {"terminationGracePeriodSeconds": 3600, **made["spec"]}
    return made
