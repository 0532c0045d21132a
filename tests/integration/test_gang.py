"""The cut between nodes, over real HTTP and real control pages; ranks are threads that keep the
rank's side of the bargain, so that thousands of boundaries pass in a second."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from singularity.agent.barrier import Dumped, Order, Verdict, View
from singularity.agent.cutting import CutLoop, Outcome
from singularity.agent.gang import CutRef, GangClient, GangServer
from singularity.agent.interposer.page import Page, State
from singularity.agent.layout import Layout
from singularity.agent.leads import Leads
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

JOB, NODES = JobId("j"), (NodeId("n0"), NodeId("n1"))
REF = CutRef(JOB, 1, 1)


class Rank(threading.Thread):
    """Steps, holds and parks as the interposer does, at an irregular pace."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.page, self.mine = Page.create(path), Page(path)
        self.mine.state = State.RUNNING
        self._rng, self.stop = random.Random(seed), threading.Event()

    def run(self) -> None:
        page = self.mine
        while not self.stop.is_set():
            self.stop.wait(self._rng.random() * 0.004)
            page.step = page.step + 1
            while page.stop and page.step >= page.stop and not self.stop.is_set():
                if page.commit == page.step:
                    page.state = State.PARKED
                    return
                page.state = State.HOLDING
                self.stop.wait(0.001)
            page.state = State.RUNNING


class Dump:
    """A dump that takes no time and succeeds, or does not."""

    unable = None

    def __init__(self, ok: bool) -> None:
        self.ok = ok

    def begin(self, moment: int) -> None:
        """It has."""

    def moment(self) -> int:
        return 1

    def state(self) -> tuple[Dumped, str]:
        return (Dumped.DURABLE, "") if self.ok else (Dumped.FAILED, "disk full")


class Planet:
    """Two nodes with two ranks each; n0 leads."""

    def __init__(self, root: Path, stack: ExitStack, deadline_s: float = 20.0) -> None:
        self.start = Start(
            job=JOB,
            node=NODES[0],
            incarnation=1,
            gang=NODES,
            world=4,
            ranks=(0, 1),
            slots=(0, 1),
            devices=2,
            run=("true",),
            secret="s",
        )
        self.ranks = {r: Rank(root / f"rank-{r}.page", seed=r) for r in range(4)}
        for rank in self.ranks.values():
            rank.start()
            stack.callback(rank.stop.set)
        self.addresses: dict[NodeId, str] = {}
        self.leads = {n: self.make_leads(n, root, deadline_s) for n in NODES}
        for node, leads in self.leads.items():
            server = GangServer("127.0.0.1", leads.judge)
            self.addresses[node] = server.address
            stack.callback(server.close)

    def make_leads(self, node: NodeId, root: Path, deadline_s: float) -> Leads:
        layout = Layout(root / node, root / "run", root / "volume", root / node / "images")
        return Leads(node, layout, lambda peer: self.addresses[peer], deadline_s)

    def cut(self, dumps: dict[NodeId, Dump]) -> dict[NodeId, Outcome]:
        outcomes: dict[NodeId, Outcome] = {}

        def take(node: NodeId) -> None:
            mine = (0, 1) if node == NODES[0] else (2, 3)
            start = self.start.model_copy(update={"node": node, "ranks": mine})
            line = self.leads[node].join(start, REF)
            pages = {r: self.ranks[r].page for r in mine}
            loop = CutLoop(node, lambda: pages, line.ask, dumps[node], lambda: None)
            outcomes[node] = loop.run(free=False)
            line.close()

        threads = [threading.Thread(target=take, args=(n,), daemon=True) for n in NODES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return outcomes


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("attempt", range(3))
def test_all_ranks_park_at_one_step_and_all_nodes_hear_of_it(
    tmp_path: Path, stack: ExitStack, attempt: int
) -> None:
    planet = Planet(tmp_path, stack)
    outcomes = planet.cut({n: Dump(ok=True) for n in NODES})
    steps = {rank.page.step for rank in planet.ranks.values()}
    assert len(steps) == 1
    assert {o.step for o in outcomes.values()} == steps
    assert {o.order.verdict for o in outcomes.values()} == {Verdict.FINISH}
    assert all(rank.page.state is State.PARKED for rank in planet.ranks.values())


def test_one_failed_dump_aborts_the_cut_for_all_with_its_reason(
    tmp_path: Path, stack: ExitStack
) -> None:
    planet = Planet(tmp_path, stack)
    outcomes = planet.cut({NODES[0]: Dump(ok=True), NODES[1]: Dump(ok=False)})
    assert {o.order.verdict for o in outcomes.values()} == {Verdict.ABORT}
    assert {o.order.reason for o in outcomes.values()} == {"n1: disk full"}
    assert len({o.step for o in outcomes.values()}) == 1, "parked together, so they rejoin together"


def test_a_lead_that_came_back_says_what_it_said_before(tmp_path: Path, stack: ExitStack) -> None:
    planet = Planet(tmp_path, stack)
    outcomes = planet.cut({n: Dump(ok=True) for n in NODES})
    again = planet.make_leads(NODES[0], tmp_path, 20.0)
    order = again.judge(REF, View(NODES[1]), "s")
    assert order is not None
    assert (order.verdict, order.commit) == (Verdict.FINISH, outcomes[NODES[1]].step)
    assert again.judge(REF, View(NODES[1]), "not the secret") is None


def test_ranks_that_never_reach_a_boundary_run_on_after_the_deadline(
    tmp_path: Path, stack: ExitStack
) -> None:
    planet = Planet(tmp_path, stack, deadline_s=0.3)
    planet.ranks[3].stop.set()
    planet.ranks[3].join()
    planet.ranks[3].page.state = State.RUNNING
    outcomes = planet.cut({n: Dump(ok=True) for n in NODES})
    assert {o.order.verdict for o in outcomes.values()} == {Verdict.ABORT}
    assert all(rank.page.stop == 0 for rank in planet.ranks.values())


def test_no_answer_of_a_lead_waits_for_the_receipt_of_its_first_half() -> None:
    """A lead answers in two writes; with Nagle's algorithm the second waits for a delayed
    acknowledgement, 40 ms each time a node asks."""
    undelayed: list[int] = []

    def judge(_ref: CutRef, _view: View, _secret: str) -> Order:
        for connection in psutil.Process().net_connections("tcp"):
            here = connection.status == "ESTABLISHED" and connection.laddr.port == port
            if here:
                with socket.socket(fileno=os.dup(connection.fd)) as answering:
                    undelayed.append(answering.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return Order()

    server = GangServer("127.0.0.1", judge)
    port = int(server.address.rpartition(":")[2])
    client = GangClient(server.address, "s")
    try:
        assert client.ask(REF, View(NODES[0])) == Order()
    finally:
        client.close()
        server.close()
    assert undelayed == [1]
