"""SIMULATED agents, many in one process: what a real one is but for hands, journal and signatures.

Letters come out of the broker's queues, `agent.core.react` judges them, reports go to the door of
the API that agents use. A program is `["simulated", SECONDS]`: it starts at once, ends by itself,
and can be cut at once, to go on later with what was left of it.
"""

from __future__ import annotations

import base64
import heapq
import http.client
import json
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import redis

from singularity.agent.answers import Done, Ended, Saved, Started
from singularity.agent.core import Admitted, AgentState, Event, Forget, react
from singularity.agent.effects import Effect, Kill, Launch, LetGo, TakeCut
from singularity.primitives.messages import Envelope, Register, Report
from singularity.primitives.model import JobId, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import queue_of

_BEAT_S: Final = 2.0
_WINDOW_S: Final = 0.002  # in which reports share a request, as they come
_LETTERS_MOST: Final = 1000
Json = dict[str, Any]


class Line:
    """One connection to the API, kept open. For one thread."""

    def __init__(self, url: str, token: str) -> None:
        self._where = urlsplit(url).netloc
        self.token = token
        self._http: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Raises RuntimeError for an answer that is no success."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        for again in (True, False):
            if self._http is None:
                self._http = http.client.HTTPConnection(self._where, timeout=60)
            try:
                self._http.request(method, path, sent, headers)
                answer = self._http.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError):
                self._http.close()
                self._http = None
                if not again:
                    raise
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text) if text else None


@dataclass(slots=True)
class Run:
    """One life of a program: since when, and how long it still takes."""

    since_s: float
    left_s: float


class Node:
    """State of one agent. Whoever holds `lock` may let something happen to it."""

    def __init__(self, register: Register, line: Line, beats: Line) -> None:
        self.register, self.line, self.beats = register, line, beats
        self.lock, self.state = threading.Lock(), AgentState(register.node)
        self.told: deque[Report] = deque()
        self.rung = threading.Event()
        self.runs: dict[JobId, Run] = {}
        self.left_s: dict[JobId, float] = {}
        self.ended: set[JobId] = set()  # whose exit the plane has taken

    def join(self) -> None:
        answer = self.line.call("POST", "/v1/agent/register", self.register.model_dump(mode="json"))
        self.line.token = self.beats.token = answer["token"] or self.line.token
        self.happen(Admitted(answer["epoch"]))

    def happen(self, event: Event) -> tuple[Effect, ...]:
        with self.lock:
            self.state, effects, reports = react(self.state, event)
            self.told.extend(reports)
        if reports:
            self.rung.set()
        return effects

    def forget(self, pairs: list[list[Any]]) -> None:
        if pairs:
            known = self.state.last
            over = (JobId(j) for j, _ in pairs if j in known and known[j].phase == "exited")
            self.ended.update(over)
            self.happen(Forget(tuple((JobId(j), n) for j, n in pairs)))

    def report(self) -> None:
        """What has been told since, in one request."""
        self.rung.wait()
        time.sleep(_WINDOW_S)
        self.rung.clear()
        reports = [self.told.popleft() for _ in range(len(self.told))]
        if reports:
            body = {"reports": [r.model_dump(mode="json", exclude_defaults=True) for r in reports]}
            self.forget(self.line.call("POST", "/v1/agent/report", body)["forget"])

    def beat(self) -> None:
        with self.lock:
            state = self.state
        said = [r.model_dump(mode="json", exclude_defaults=True) for r in state.last.values()]
        body = {"node": state.node, "epoch": state.epoch, "acknowledged": state.seq}
        pulse = self.beats.call("POST", "/v1/agent/heartbeat", {**body, "reports": said})
        assert pulse["admitted"], f"{state.node} was declared lost"
        self.forget(pulse["forget"])


class Agents:
    """All nodes of the planet. `run` returns when as many programs as that have ended."""

    def __init__(self, url: str, join: str, broker_url: str, nodes: list[Register]) -> None:
        self.nodes: dict[NodeId, Node] = {}
        for each in nodes:
            self.nodes[each.node] = Node(each, Line(url, join), Line(url, join))
        self._broker = redis.Redis.from_url(broker_url)
        self._queues = {queue_of(n): n for n in self.nodes}
        self._due: list[tuple[float, NodeId, JobId, int]] = []

    def join(self) -> None:
        for node in self.nodes.values():
            node.join()
            threading.Thread(target=_for_ever, args=(node.report,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def run(self, programs: int, stop: threading.Event) -> None:
        while sum(len(n.ended) for n in self.nodes.values()) < programs and not stop.is_set():
            self._take(max(0.001, min(0.05, self._next_s() - time.monotonic())))
            while self._next_s() <= time.monotonic():
                _, node, job, life = heapq.heappop(self._due)
                run = self.nodes[node].runs.get(job)
                if run is not None and self._lives(node, job, life):
                    self._done(node, Ended(job, life, exit_code=0))

    def _next_s(self) -> float:
        return self._due[0][0] if self._due else float("inf")

    def _lives(self, node: NodeId, job: JobId, life: int) -> bool:
        there = self.nodes[node].state.live.get(job)
        return there is not None and there.start.incarnation == life and not there.stopping

    def _take(self, wait_s: float) -> None:
        """Letters of all nodes, as they come."""
        found = self._broker.brpop(list(self._queues), timeout=wait_s)  # type: ignore[arg-type]
        if found is None:
            return
        queue, first = found  # type: ignore[misc]
        self._letter(self._queues[queue.decode()], first)
        asked = self._broker.pipeline(transaction=False)
        for name in self._queues:
            asked.rpop(name, _LETTERS_MOST)
        for node, letters in zip(self._queues.values(), asked.execute(), strict=True):
            for letter in letters or ():
                self._letter(node, letter)

    def _letter(self, node: NodeId, text: bytes) -> None:
        args = json.loads(base64.b64decode(json.loads(text)["body"]))[0]
        for sealed in args if isinstance(args[0], dict) else args[0]:
            envelope = Envelope.model_validate_json(sealed["body"])
            for effect in self.nodes[node].happen(envelope):
                self._perform(node, effect)

    def _done(self, node: NodeId, done: Done) -> None:
        if isinstance(done, Ended):
            self.nodes[node].runs.pop(done.job, None)
        for effect in self.nodes[node].happen(done):
            self._perform(node, effect)

    def _perform(self, node: NodeId, effect: Effect) -> None:
        there, now_s = self.nodes[node], time.monotonic()
        match effect:
            case Launch(start):
                left_s = there.left_s.pop(start.job, float(start.run[1])) if start.origin else None
                left_s = float(start.run[1]) if left_s is None else left_s
                there.runs[start.job] = Run(now_s, left_s)
                heapq.heappush(self._due, (now_s + left_s, node, start.job, start.incarnation))
                self._done(node, Started(start.job, start.incarnation))
            case TakeCut(start, cut):
                run = there.runs[start.job] if cut.keep_running else there.runs.pop(start.job)
                left_s = max(0.0, run.left_s - (now_s - run.since_s))
                for other in self.nodes.values():
                    other.left_s[start.job] = left_s
                image = ShardImage(node, start.ranks, "0" * 64, 1)
                release = not cut.keep_running
                self._done(node, Saved(start.job, start.incarnation, cut.cut, release, image))
            case Kill(job, life):
                self._done(node, Ended(job, life, killed=True))
            case LetGo():
                pass
            case _:
                raise AssertionError(f"no simulated agent can {effect}")

    def _beat(self) -> None:
        while True:
            began_s = time.monotonic()
            for node in self.nodes.values():
                node.beat()
            time.sleep(max(0.1, _BEAT_S - (time.monotonic() - began_s)))


def _for_ever(work: Any) -> None:
    while True:
        work()
