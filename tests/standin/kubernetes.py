"""A stand-in for the API server of Kubernetes, where there is none: pods, nodes and config maps in
memory, by the server's own paths. Lists, watches, versions and bindings behave as documented at
https://kubernetes.io/docs/reference/using-api/api-concepts/ ; nothing else is there.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from copy import deepcopy
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

Object = dict[str, Any]
_KINDS = {"pods": "Pod", "nodes": "Node", "configmaps": "ConfigMap"}
_LOOK_S, _UP_S = 0.01, 20.0


class Cluster:
    """What the server knows. Also for a test to change, from its own thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[tuple[str, str, str], Object] = {}  # by plural, namespace, name
        self._version = 100
        self.log: list[tuple[int, str, str, Object]] = []  # version, plural, what happened, object
        self.refuse_bindings = ""  # with this message
        self.binding_s = 0.0  # that one takes
        self.asked: set[tuple[str, str, str]] = set()  # verbs, resources, and namespaces or ""

    def put(self, plural: str, found: Object) -> Object:
        """Create it, or have it in the place of what was there."""
        with self._lock:
            meta = found["metadata"]
            key = plural, meta.get("namespace", ""), meta["name"]
            self._version += 1
            meta.setdefault("uid", str(uuid.uuid4()))
            meta["resourceVersion"] = str(self._version)
            event = "MODIFIED" if key in self._objects else "ADDED"
            self._objects[key] = found
            self.log.append((self._version, plural, event, deepcopy(found)))
            return found

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self._lock:
            if (found := self._objects.get((plural, namespace, name))) is None:
                raise refusal(404, "NotFound", f'{plural} "{name}" not found')
            return deepcopy(found)

    def delete(self, plural: str, namespace: str, name: str) -> None:
        with self._lock:
            gone = self.get(plural, namespace, name)
            del self._objects[plural, namespace, name]
            self._version += 1
            gone["metadata"]["resourceVersion"] = str(self._version)
            self.log.append((self._version, plural, "DELETED", gone))

    def listed(self, plural: str, namespace: str | None) -> tuple[list[Object], str]:
        with self._lock:
            found = [
                deepcopy(each)
                for (of, where, _), each in sorted(self._objects.items())
                if of == plural and namespace in (None, where)
            ]
            return found, str(self._version)

    def replace(self, plural: str, namespace: str, name: str, found: Object) -> Object:
        with self._lock:
            there = self.get(plural, namespace, name)
            version = found["metadata"].get("resourceVersion")
            if version and version != there["metadata"]["resourceVersion"]:
                why = f'Operation cannot be fulfilled on {plural} "{name}": it has been modified'
                raise refusal(409, "Conflict", why)
            found["metadata"]["uid"] = there["metadata"]["uid"]
            return self.put(plural, found)

    def patch(self, plural: str, namespace: str, name: str, change: Object) -> Object:
        """By RFC 7386."""
        with self._lock:
            return self.put(plural, _merged(self.get(plural, namespace, name), change))

    def create(self, plural: str, namespace: str, found: Object) -> Object:
        with self._lock:
            name = found["metadata"]["name"]
            if (plural, namespace, name) in self._objects:
                raise refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
            found["metadata"]["namespace"] = namespace
            return self.put(plural, found)

    def forget_log(self) -> None:
        """Whoever watches must begin anew."""
        with self._lock:
            self._version += 1
            self.log = []

    def bind(self, namespace: str, name: str, binding: Object) -> None:
        with self._lock:
            if self.refuse_bindings:
                raise refusal(403, "Forbidden", self.refuse_bindings)
            pod, said = self.get("pods", namespace, name), binding.get("metadata") or {}
            if said.get("uid") not in (None, pod["metadata"]["uid"]):
                raise refusal(409, "Conflict", "Precondition failed: UID in precondition differs")
            if node := pod["spec"].get("nodeName"):
                raise refusal(409, "Conflict", f'pod {name} is already assigned to node "{node}"')
            pod["spec"]["nodeName"] = binding["target"]["name"]
            pod["metadata"].setdefault("annotations", {}).update(said.get("annotations") or {})
            self.put("pods", pod)


def _merged(found: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    made = dict(found) if isinstance(found, dict) else {}
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def refusal(code: int, reason: str, message: str) -> HTTPException:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return HTTPException(code, {**status, "message": message, "reason": reason, "code": code})


def api(cluster: Cluster) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error.detail, error.status_code)

    async def many(request: Request, plural: str, namespace: str | None = None) -> Any:
        query = request.query_params
        read = "watch" if query.get("watch") == "true" else "list"
        verb = "create" if request.method == "POST" else read
        cluster.asked.add((verb, plural, namespace or ""))
        if request.method == "POST":
            return cluster.create(plural, namespace or "", await request.json())
        if verb == "watch":
            since, until_s = int(query.get("resourceVersion") or 0), float(query["timeoutSeconds"])
            told = _changes(cluster, plural, namespace, since, time.monotonic() + until_s)
            return StreamingResponse(told, media_type="application/json")
        found, version = cluster.listed(plural, namespace)
        if node := query.get("fieldSelector", "").removeprefix("spec.nodeName="):
            found = [each for each in found if each["spec"].get("nodeName") == node]
        meta = {"resourceVersion": version}
        kind = f"{_KINDS[plural]}List"
        return {"kind": kind, "apiVersion": "v1", "metadata": meta, "items": found}

    async def one(request: Request, plural: str, name: str, namespace: str = "") -> Any:
        verb = {"PUT": "update", "PATCH": "patch"}.get(request.method, "get")
        cluster.asked.add((verb, plural, namespace))
        if verb == "patch":
            return cluster.patch(plural, namespace, name, await request.json())
        if request.method == "PUT":
            return cluster.replace(plural, namespace, name, await request.json())
        return cluster.get(plural, namespace, name)

    async def status(request: Request, plural: str, name: str) -> Any:
        cluster.asked.add(("patch", f"{plural}/status", ""))
        return cluster.patch(plural, "", name, await request.json())

    async def binding(request: Request, namespace: str, name: str) -> JSONResponse:
        cluster.asked.add(("create", "pods/binding", namespace))
        await asyncio.sleep(cluster.binding_s)
        cluster.bind(namespace, name, await request.json())
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return JSONResponse({**done, "code": 201}, 201)

    inside = "/api/v1/namespaces/{namespace}"
    app.add_api_route(f"{inside}/pods/{{name}}/binding", binding, methods=["POST"])
    for path in (inside, "/api/v1"):
        app.add_api_route(f"{path}/{{plural}}", many, methods=["GET", "POST"])
        app.add_api_route(f"{path}/{{plural}}/{{name}}", one, methods=["GET", "PUT", "PATCH"])
    app.add_api_route("/api/v1/{plural}/{name}/status", status, methods=["PATCH"])
    return app


async def _changes(
    cluster: Cluster, plural: str, namespace: str | None, since: int, until_s: float
) -> AsyncIterator[str]:
    log, seen = cluster.log, 0
    while time.monotonic() < until_s:
        if log is not cluster.log:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            yield json.dumps({"type": "ERROR", "object": gone}) + "\n"
            return
        news = log[seen:]
        seen += len(news)
        for version, of, what, found in news:
            where = found["metadata"].get("namespace", "")
            if version > since and of == plural and namespace in (None, where):
                yield json.dumps({"type": what, "object": found}) + "\n"
        await asyncio.sleep(_LOOK_S)


class Served:
    """An application on a port of this machine, in a thread of its own."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until_s = time.monotonic() + _UP_S
        while not self._server.started:
            assert time.monotonic() < until_s, "it does not start"
            time.sleep(0.005)
        (server,) = self._server.servers
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(_UP_S)


def node(name: str, gpu_mem: int | None = None, gpu_count: int | None = None) -> Object:
    amounts = {"aliyun.com/gpu-mem": gpu_mem, "aliyun.com/gpu-count": gpu_count}
    has = {kind: str(amount) for kind, amount in amounts.items() if amount is not None}
    meta = {"name": name, "labels": {"gpushare": "true"}}
    return {"metadata": meta, "status": {"capacity": has, "allocatable": has}}


def pod(
    name: str,
    gpu_mem: Iterable[int | None],
    node_name: str | None = None,
    annotations: dict[str, str] | None = None,
    namespace: str = "default",
) -> Object:
    """Of one container for each amount of memory."""
    containers = []
    for number, amount in enumerate(gpu_mem):
        limits = {"aliyun.com/gpu-mem": str(amount)} if amount is not None else {}
        asked = {"limits": limits, "requests": limits} if limits else {}
        containers.append({"name": f"c{number}", "image": "busybox", "resources": asked})
    spec: Object = {"containers": containers, **({"nodeName": node_name} if node_name else {})}
    meta = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}
