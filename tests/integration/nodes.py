"""Nodes without a control plane: the real executor, checkpointer, store and gang messages, driven
by react() and by commands that a test writes itself."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from singularity.agent.answers import Done
from singularity.agent.core import AgentState, Boot, Event, Forget, react
from singularity.agent.executor import Executor
from singularity.agent.gang import GangServer
from singularity.agent.handover import Handovers
from singularity.agent.interposer.inject import prepare
from singularity.agent.inventory import manager
from singularity.agent.layout import Layout
from singularity.agent.leads import Leads
from singularity.agent.node import make_tools, open_sharing
from singularity.agent.scratch import open_scratch
from singularity.agent.settings import AgentSettings
from singularity.agent.sharing import Sharing
from singularity.agent.tools import Tools
from singularity.primitives.engines import moment
from singularity.primitives.messages import Command, Cut, Envelope, Origin, Report, Reslot, Start
from singularity.primitives.model import Engine, JobId
from singularity.primitives.nodes import NodeId

JOB = JobId("job")
SCRIPT = Path(__file__).parent / "jobs" / "paced.py"
PATIENCE_S = 90.0


class Planet:
    """Some nodes on this machine that share a volume and a run directory."""

    def __init__(self, root: Path, bridge: str) -> None:
        self.root, self._bridge = root, bridge
        self.addresses: dict[NodeId, str] = {}
        self.nodes: dict[str, LocalNode] = {}
        self.reslot_deadline_s = PATIENCE_S
        self.store = ""  # by default the volume
        self.cut_deadline_s = 30.0
        self.fit: Callable[[NodeId, Tools], Tools] = lambda _, tools: tools
        self.share: Callable[[AgentSettings, Layout], Sharing] = of_processors
        self.out = root / "out"
        self.out.mkdir()

    def node(self, name: str) -> LocalNode:
        if name not in self.nodes:
            self.nodes[name] = LocalNode(self, NodeId(name), len(self.nodes))
        return self.nodes[name]

    def settings(self, node: NodeId, index: int) -> AgentSettings:
        return AgentSettings(
            api_url="http://127.0.0.1:1",
            node=node,
            region="r",
            cluster="c",
            devices=4,
            node_dir=self.root / node,
            run_dir=self.root / "run",
            volume=self.root / "volume",
            store=self.store,
            bridge=self._bridge,
            subnet="10.84.0.0/16",
            node_index=index,
            reslot_deadline_s=self.reslot_deadline_s,
        )

    def start(
        self, placement: dict[str, tuple[int, ...]], incarnation: int, steps: int
    ) -> dict[str, Start]:
        """The Start of each node for a fresh gang; ranks of a node have a device each."""
        run = (sys.executable, str(SCRIPT), "--steps", str(steps), "--out", str(self.out))
        return {
            name: Start(
                job=JOB,
                node=NodeId(name),
                incarnation=incarnation,
                gang=tuple(NodeId(n) for n in placement),
                world=sum(len(ranks) for ranks in placement.values()),
                ranks=ranks,
                slots=tuple(range(len(ranks))),
                devices=len(ranks),
                run=run,
                secret="secret",
            )
            for name, ranks in placement.items()
        }

    def steps(self) -> int:
        log = self.out / "loss-0.csv"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def losses(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.out.glob("loss-*.csv"))]


def of_processors(settings: AgentSettings, layout: Layout) -> Sharing:
    return open_sharing(settings, layout, manager("cpu", settings.devices))


class LocalNode:
    def __init__(self, planet: Planet, name: NodeId, index: int) -> None:
        self._planet, self.name, self._index = planet, name, index
        self.state, self._seq = AgentState(node=name, epoch=1), 0
        self.reports: queue.Queue[Report] = queue.Queue()
        self._former: list[Executor] = []
        self._open()

    def _open(self) -> None:
        settings = self._planet.settings(self.name, self._index)
        directory = settings.node_dir
        scratch = open_scratch(directory, settings.scratch)
        layout = Layout(directory, settings.run_dir, settings.volume, scratch)
        for made in (layout.node_dir, layout.run, layout.volume):
            made.mkdir(parents=True, exist_ok=True)
        prepare(layout.inject)
        leads = Leads(
            self.name, layout, self._planet.addresses.__getitem__, self._planet.cut_deadline_s
        )
        handovers = Handovers(layout, self._planet.addresses.__getitem__)
        self.server = GangServer("127.0.0.1", leads.judge, handovers.give)
        self._planet.addresses[self.name] = self.server.address
        self.layout, self._lock = layout, threading.RLock()
        self.sharing = self._planet.share(settings, layout)
        tools = make_tools(settings, layout, leads, handovers, self.sharing)
        self.tools = self._planet.fit(self.name, tools)
        self.executor = Executor(self.tools, self._done)

    def restart(self) -> None:
        """What a new agent finds: the journal, the ranks, and nothing of the old one's memory.

        The old one's threads cannot be killed; they are cut off from everything instead.
        """
        self.server.close()
        self.executor.abandon()
        self._former.append(self.executor)
        self._lock = threading.RLock()
        self._open()
        live = self.executor.adopt(self.state.live)
        self._handle(Boot(live))

    def close(self) -> None:
        self.executor.kill_all()
        self.server.close()
        self.layout.scratch.close()
        for executor in self._former:  # what they started is their child to the end
            for hands in executor._hands.values():
                for sandbox in hands._ranks.values():
                    sandbox.kill()
            executor._tools.handovers.clear()
            executor._tools.images.recent.clear()
            executor._tools.warm.clear()

    def short_of_memory(self) -> None:
        """Nothing is left beside the store of what was cut here."""
        self.tools.images.recent.clear()

    def forget(self, job: JobId, incarnation: int) -> None:
        """The control plane needs what was told of that life no more."""
        self._handle(Forget(((job, incarnation),)))

    def send(self, command: Command) -> None:
        self._seq += 1
        self._handle(Envelope(node=self.name, epoch=1, seq=self._seq, command=command))

    def cut(
        self,
        incarnation: int,
        cut: int,
        *,
        keep_running: bool,
        engine: Engine = Engine.TRANSPARENT,
        note_after: int = 0,
        stay: tuple[int, ...] | None = None,
    ) -> None:
        """A handover, where it is said which ranks `stay`."""
        self.send(
            Cut(
                job=JOB,
                node=self.name,
                incarnation=incarnation,
                cut=cut,
                keep_running=keep_running,
                engine=engine,
                note_after=note_after,
                handover=stay is not None,
                stay=stay or (),
            )
        )

    def reslot(self, incarnation: int, number: int, slots: tuple[int, ...]) -> None:
        self.send(
            Reslot(
                job=JOB,
                node=self.name,
                incarnation=incarnation,
                resize=number,
                slots=slots,
                devices=len(set(slots)),
            )
        )

    def report(self) -> Report:
        return self.reports.get(timeout=PATIENCE_S)

    def _done(self, done: Done, then: Callable[[], None]) -> None:
        self._handle(done, then)

    def _handle(self, event: Event, then: Callable[[], None] | None = None) -> None:
        with self._lock:
            state, effects, reports = react(self.state, event)
            if then is not None:
                then()
            self.state = state
            for effect in effects:
                self.executor.perform(effect)
        for report in reports:
            self.reports.put(report)


@contextmanager
def planet(root: Path, bridge: str) -> Iterator[Planet]:
    made = Planet(root, bridge)
    try:
        yield made
    finally:
        for node in made.nodes.values():
            node.close()
        for node in made.nodes.values():
            node.tools.network.destroy()


def origin(*reports: Report) -> Origin:
    """What a later life resumes from, given how every shard of the gang was dumped."""
    images = tuple(r.image for r in reports if r.image is not None)
    step = moment(images)
    assert step is not None, images
    first = reports[0]
    return Origin(incarnation=first.incarnation, cut=first.cut, step=step, shards=images)


def resumed(starts: dict[str, Start], found: Origin) -> dict[str, Start]:
    return {n: s.model_copy(update={"origin": found}) for n, s in starts.items()}
