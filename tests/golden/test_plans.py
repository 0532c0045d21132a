"""Recorded planets and what is decided about them, as text that is read in review.

`make golden` writes them anew; `git diff` then shows what a change of the scheduler changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from singularity.primitives.drains import Drain
from singularity.primitives.faults import noted
from singularity.primitives.health import Fault, FaultKind, Quarantine
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.messages import Register, Report
from singularity.primitives.model import Job, JobId, JobSpec, JobState, Placement, Tier
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.rebalancing import Rebalancing
from singularity.primitives.sharing import GIB, DeviceShare, Precedence
from singularity.scheduler.decide import decide
from singularity.scheduler.orders import Close, Open, Order, Settle
from singularity.scheduler.plan import Plan, Verb
from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.ledger import MemoryLedger
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check
from tests.unit.service_scene import POLICY, ServiceScene, service

HERE = Path(__file__).parent


class Scene:
    """A planet set up by the same calls that the control plane makes."""

    def __init__(self) -> None:
        self.ledger, self.now_s = MemoryLedger(), 100.0
        for region, clusters in (("eu", ("eu-1", "eu-2")), ("us", ("us-1",))):
            for cluster in clusters:
                for n in range(2):
                    self._join(f"{cluster}-{n}", region, cluster)

    def _join(self, name: str, region: str, cluster: str) -> None:
        where = {"region": region, "cluster": cluster, "address": ""}
        what = {
            "device": "h200",
            "devices": 8,
            "memory_bytes": 140 * GIB,
            "preempts": region == "eu",
        }
        register = Register(node=NodeId(name), **what, **where)  # type: ignore[arg-type]
        self.ledger.register(register, self.now_s)

    def submit(self, spec: JobSpec) -> None:
        self.now_s += 1.0
        job = Job(JobId(spec.name), spec, spec.devices, submitted_at_s=self.now_s)
        self.ledger.submit(job)

    def settle(self) -> None:
        """Rounds until nothing is decided any more, with agents that start what they are told."""
        for _ in range(20):
            self.now_s += 1.0
            snapshot = self.ledger.snapshot(self.now_s)
            plan = decide(snapshot, Policy())
            if not plan.actions:
                return
            self.ledger.commit(plan, self.now_s)
            for job in self.ledger.jobs().values():
                if job.state is JobState.STARTING:
                    self._started(job)

    def end(self, name: str) -> None:
        job = self.ledger.jobs()[JobId(name)]
        for node in sorted(job.nodes):
            found = {"job": job.id, "node": node, "incarnation": job.incarnation}
            self.ledger.record(Report(phase="exited", exit_code=0, **found), self.now_s)

    def _started(self, job: Job) -> None:
        for node in sorted(job.nodes):
            found = {"job": job.id, "node": node, "incarnation": job.incarnation}
            self.ledger.record(Report(phase="running", **found), self.now_s)


def spec(name: str, devices: int, tier: Tier = Tier.STANDARD, least: int | None = None) -> JobSpec:
    low = devices if least is None else least
    sizes = {"devices": devices, "devices_min": low, "devices_max": devices}
    return JobSpec(name, ("train",), ranks=devices, device="h200", tier=tier, **sizes)  # type: ignore[arg-type]


def busy() -> Scene:
    """Basic and standard work on every node, some of it elastic."""
    scene = Scene()
    scene.submit(spec("basic-elastic", 16, Tier.BASIC, least=4))
    scene.submit(spec("basic-fixed", 8, Tier.BASIC))
    scene.submit(spec("standard-wide", 16))
    scene.submit(spec("standard-small", 4))
    scene.settle()
    return scene


def urgent_work_arrives() -> Scene:
    scene = busy()
    scene.submit(spec("premium", 16, Tier.PREMIUM))
    scene.submit(spec("basic-late", 2, Tier.BASIC))
    return scene


def a_cluster_is_drained() -> Scene:
    scene = busy()
    scene.ledger.set_duty(Scope(ScopeKind.CLUSTER, "us-1"), Duty.DRAINING, scene.now_s)
    return scene


def a_node_is_lost() -> Scene:
    scene = busy()
    lost = min(scene.ledger.jobs()[JobId("standard-wide")].nodes)
    scene.ledger.lose({lost: scene.now_s}, scene.now_s)
    return scene


def owners_change_their_minds() -> Scene:
    scene = busy()
    scene.ledger.resize(JobId("basic-elastic"), 8, scene.now_s)
    scene.ledger.confine(JobId("standard-small"), Scope(ScopeKind.REGION, "us"), scene.now_s)
    scene.ledger.request_checkpoint(JobId("basic-fixed"), scene.now_s)
    scene.submit(spec("too-wide", 64))
    return scene


def load_rises() -> ServiceScene:
    """Replicas that were woken make room: training shrinks, though it is as urgent."""
    scene = served()
    return before(Verb.SCALE, scene, busy=3.8)


def load_falls() -> ServiceScene:
    """Replicas have left, and training grows back."""
    scene = served()
    scene.go(20, busy=3.8)
    return before(Verb.SCALE, scene, busy=0.8)


def served() -> ServiceScene:
    scene = ServiceScene(nodes=1, devices=8)
    scene.train("train", 6, least=2)
    scene.train("basic", 1, tier=Tier.BASIC)
    scene.serve(service(most=5, tier=Tier.STANDARD))
    scene.go(10, busy=0.8)
    return scene


def before(verb: Verb, scene: ServiceScene, busy: float) -> ServiceScene:
    """The scene as it is when somebody is about to be told so."""
    for _ in range(600):
        scene.load(busy)
        plan = decide(scene.ledger.snapshot(scene.now_s + 1.0), POLICY)
        if any(action.verb is verb for action in plan.actions):
            return scene
        scene.tick()
    raise AssertionError(f"nobody is ever told to {verb}")


def shares_find_their_devices() -> Scene:
    """Beside whole gangs: of odd sizes, one that only some regions can have, and one too many."""
    scene = busy()
    sizes = ((500, 70), (250, 20), (700, 60), (300, 90), (500, 10), (100, 5), (900, 120))
    for number, (milli, gib) in enumerate(sizes):
        precedence = Precedence.REAL_TIME if number % 3 == 0 else Precedence.BEST_EFFORT
        part = DeviceShare(milli, gib * GIB, precedence)
        scene.submit(replace(spec(f"share-{number}", 1), share=part))
    scene.submit(replace(spec("share-gang", 4), share=DeviceShare(200, 10 * GIB)))
    scene.submit(replace(spec("share-wide", 24), share=DeviceShare(200, 10 * GIB)))
    return scene


def the_lender_takes_back() -> Scene:
    """The owners lent most of 24 devices; borrowers are urgent, small or elastic."""
    scene = Scene()
    guaranteed = Allotment("h200", 24, borrow=8)
    scene.ledger.set_project(Project("owners", allotments=(guaranteed,)), scene.now_s)
    for name, devices, tier in (("urgent", 16, Tier.PREMIUM), ("plain", 8, Tier.STANDARD)):
        scene.submit(replace(spec(name, devices, tier), project="guests"))
    scene.submit(replace(spec("elastic", 16, Tier.PREMIUM, least=4), project="guests"))
    scene.submit(replace(spec("own-basic", 8, Tier.BASIC), project="owners"))
    scene.settle()
    scene.submit(replace(spec("own-next", 16, Tier.BASIC), project="owners"))
    scene.submit(replace(spec("own-more", 8, Tier.BASIC), project="owners"))
    scene.submit(replace(spec("guest-next", 8, Tier.PREMIUM), project="guests"))
    return scene


def borrowers_become_narrower() -> Scene:
    """An owner asks for half of what is its own. Borrowers can give it in place, the less urgent
    first, so nobody leaves; a project that sits within its guarantee gives nothing."""
    scene = Scene()
    owners, others = Allotment("h200", 16, borrow=8), Allotment("h200", 16, borrow=0)
    scene.ledger.set_project(Project("owners", allotments=(owners,)), scene.now_s)
    scene.ledger.set_project(Project("others", allotments=(others,)), scene.now_s)
    scene.submit(replace(spec("others-basic", 16, Tier.BASIC, least=4), project="others"))
    scene.submit(replace(spec("guest-urgent", 16, Tier.PREMIUM, least=4), project="guests"))
    scene.submit(replace(spec("guest-plain", 8, least=2), project="guests"))
    scene.submit(replace(spec("guest-basic", 8, Tier.BASIC, least=4), project="guests"))
    scene.settle()
    scene.submit(replace(spec("own", 8, Tier.BASIC), project="owners"))
    return scene


def what_came_free_goes_home_first() -> Scene:
    """Elastic jobs run on less than they want, and a node has come free: the basic one whose
    project is guaranteed it is before the premium one that would borrow it."""
    scene = Scene()
    scene.ledger.set_project(
        Project("owners", allotments=(Allotment("h200", 16, borrow=0),)), scene.now_s
    )
    for number in range(2):
        scene.submit(spec(f"fixed-{number}", 16, Tier.PREMIUM))
    scene.submit(spec("ends", 8, Tier.PREMIUM))
    home = replace(spec("at-home", 16, Tier.BASIC, least=2), project="owners")
    guest = replace(spec("guest", 16, Tier.PREMIUM, least=2), project="guests")
    for job, devices in ((home, 4), (guest, 4)):
        scene.submit(replace(job, regions=("us",)))
        scene.ledger.resize(JobId(job.name), devices, scene.now_s)
    scene.settle()
    for job in (home, guest):
        scene.ledger.resize(JobId(job.name), 16, scene.now_s)
    scene.end("ends")
    scene.now_s += 100.0
    return scene


def an_equal_had_less() -> Scene:
    """Nobody less urgent is there: the basic job that had most so far makes way for one that had
    nothing, and the one that began just now does not."""
    scene = Scene()
    never = {"checkpoint_every_s": 0.0}
    scene.submit(replace(spec("long", 16, Tier.BASIC), **never))  # type: ignore[arg-type]
    scene.settle()
    scene.now_s += 20_000.0
    for name in ("wide", "young"):
        scene.submit(replace(spec(name, 16, Tier.BASIC), **never))  # type: ignore[arg-type]
    scene.settle()
    scene.submit(spec("new", 16, Tier.BASIC))
    return scene


def a_window_opens_soon() -> Scene:
    """Maintenance of a cluster: the drain for it begins in time to be done."""
    scene = busy()
    scope = Scope(ScopeKind.CLUSTER, "us-1")
    window = Maintenance("switches", scope, every="thursday 00:05 UTC", length_s=7200.0)
    scene.ledger.plan_maintenance(window, scene.now_s)
    return scene


def a_deadline_is_near() -> Scene:
    """What fits nowhere leaves before it, basic first; the standard job still waits for room."""
    scene = busy()
    scene.submit(spec("premium", 4, Tier.PREMIUM))
    scene.settle()
    scene.end("basic-elastic")
    scene.submit(replace(spec("plain", 8), regions=("us",)))
    scene.submit(replace(spec("basic", 8, Tier.BASIC), regions=("us",)))
    scene.settle()
    where = Scope(ScopeKind.REGION, "us")
    order = Drain("drain-1", where, scene.now_s, deadline_s=scene.now_s + 300.0, moves_most=1)
    scene.ledger.open_drain(order)
    return scene


def a_node_fails_again() -> Scene:
    """Three jobs have failed there within the hour, and elsewhere none: it is kept out of use, and
    one whose time is over comes back."""
    scene = busy()
    node, other = NodeId("eu-1-0"), NodeId("us-1-1")
    for number in range(3):
        fault = Fault(scene.now_s - number, FaultKind.RANKS, f"job-{number}", "killed")
        there = scene.ledger.nodes()[node]
        scene.ledger._nodes[node] = noted(there, fault)
    kept = Quarantine(scene.now_s - 600.0, scene.now_s - 1.0, "within 60 min: lost × 3")
    scene.ledger.quarantine(other, kept, scene.now_s)
    return scene


def whole_nodes_are_set_free() -> Scene:
    """A rebalancing: nodes are cleared whose jobs fit on others that are partly used anyway."""
    scene = Scene()
    for number in range(4):
        scene.submit(spec(f"left-{number}", 2, Tier.BASIC))
        scene.submit(spec(f"ends-{number}", 6, Tier.BASIC))
        scene.settle()
    for number in range(4):
        scene.end(f"ends-{number}")
    scene.now_s += 3_600.0
    order = Rebalancing("rebalance-1", scene.now_s, scene.now_s + 600.0)
    scene.ledger.order_rebalancing(order)
    return scene


SCENES: list[Callable[[], Scene | ServiceScene]] = [
    urgent_work_arrives,
    a_cluster_is_drained,
    a_node_is_lost,
    owners_change_their_minds,
    load_rises,
    load_falls,
    shares_find_their_devices,
    the_lender_takes_back,
    borrowers_become_narrower,
    what_came_free_goes_home_first,
    an_equal_had_less,
    a_window_opens_soon,
    a_deadline_is_near,
    a_node_fails_again,
    whole_nodes_are_set_free,
]


def text(snapshot: Snapshot, plan: Plan) -> str:
    lines = ["nodes"]
    lines += [f"  {n.id}: {n.used} of {n.devices} {_state(n.lost, n.duty)}" for n in snapshot.nodes]
    lines.append("jobs")
    for job in snapshot.jobs:
        where = _where(job.placement) or "nowhere"
        tier = job.tier.name.lower()
        lines.append(f"  {job.id}: {tier}, {job.state}, wants {job.devices}; {where}")
    lines.append("actions")
    for action in plan.actions:
        to = f" -> {_where(action.placement)}" if action.placement else ""
        lines.append(f"  {action.verb} {action.job}{to}: {action.reason}")
    lines += [f"  order: {_order(order)}" for order in plan.orders]
    lines += [f"  {c.service.id}: {c.event}, {c.reason}" for c in plan.changes if c.event]
    lines.append("pending")
    for job_id, reasons in sorted(plan.pending.items()):
        lines += [f"  {job_id}: {r.kind}: {r.detail}" for r in reasons]
    return "\n".join(lines) + "\n"


def _order(order: Order) -> str:
    match order:
        case Open(drain):
            return f"open {drain.id} of {drain.scope.kind}/{drain.scope.id}"
        case Close(name, reason) | Settle(name, reason):
            return f"{type(order).__name__.lower()} {name}: {reason}"
        case _:
            return f"{type(order).__name__.lower()} {order.node}: {order.reason}"


def _state(lost: bool, duty: Duty) -> str:
    return "lost" if lost else duty.name.lower()


def _where(placement: Placement) -> str:
    return ", ".join(
        f"{s.devices} on {s.node}" + (f" {list(s.indices)}" if s.indices else "") for s in placement
    )


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.__name__)
def test_the_plan_is_the_recorded_one(scene: Callable[[], Scene | ServiceScene]) -> None:
    made = scene()
    snapshot = made.ledger.snapshot(made.now_s + 1.0)
    plan = decide(snapshot, POLICY)
    assert check(snapshot, plan) == []
    path = HERE / f"{scene.__name__}.txt"
    if os.environ.get("SINGULARITY_GOLDEN") == "write":
        path.write_text(text(snapshot, plan))
    assert text(snapshot, plan) == path.read_text(), "if this is meant: make golden, and read it"
