"""MemoryLedger (simulation) and SqlLedger (production) must be indistinguishable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import (
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from singularity.api import books
from singularity.primitives.asides import shadow
from singularity.primitives.drains import Drain, Leaving
from singularity.primitives.health import Quarantine
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.messages import Phase, Report
from singularity.primitives.model import (
    TERMINAL,
    Aside,
    Intent,
    Job,
    JobId,
    ShardImage,
    Tier,
    Unable,
)
from singularity.primitives.nodes import Duty, NodeId, Scope
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.rebalancing import Rebalancing
from singularity.primitives.routing import NONE, LoadNote, Loads
from singularity.primitives.service import Loss
from singularity.primitives.serving import ServiceId
from singularity.primitives.tariffs import Tariff
from singularity.scheduler.decide import decide
from singularity.scheduler.services import (
    Amended,
    Canary,
    Promise,
    Service,
    Slo,
    ended,
    opened,
    rescaled,
    updated,
)
from tests.contract.two_ledgers import (
    FOUND,
    JOBS,
    LIKELY,
    NODES,
    POLICY,
    PROJECTS,
    SCOPES,
    TwoLedgers,
    which_of,
)
from tests.unit.service_scene import service


class Ledgers(TwoLedgers):
    """All that either can be asked to do."""

    @rule(pause_s=st.sampled_from([0.1, 5.0, 700.0]), late=st.booleans())
    def tick(self, pause_s: float, late: bool) -> None:
        """Plan and commit; or commit a plan that was made before other things happened."""
        self.now_s += pause_s
        seen = [ledger.snapshot(self.now_s) for ledger in (self.sql, self.memory)]
        assert seen[0].jobs == seen[1].jobs
        nodes = [[replace(n, heard_s=0.0) for n in one.nodes] for one in seen]
        assert nodes[0] == nodes[1], "of heartbeats the one that follows is not told"
        for name in (
            *("acknowledged_s", "drains", "maintenance", "rebalancing", "traffic"),
            *("projects", "tariffs"),
        ):
            assert getattr(seen[0], name) == getattr(seen[1], name)
        plan = decide(self.memory.snapshot(self.now_s), POLICY)
        now, self.stale = (self.stale, plan) if late else (plan, None)
        if now is not None:
            self.same(lambda x: x.carry_out(now.orders, self.now_s))
            self.same(lambda x: x.commit(now, self.now_s))

    @rule(times=st.sampled_from([3, 2, 4]))
    def go(self, times: int) -> None:
        """A while in which nothing goes wrong: every node answers what it was told."""
        for _ in range(times):
            self.tick(1.0, False)
            for job in sorted(self.memory.jobs().values(), key=lambda j: j.id):
                for node in sorted(job.nodes):
                    self.tell(job, node, LIKELY.get(job.state, "running"), stored=True)

    @rule(
        i=st.integers(0, 6),
        which=st.integers(0, 3),
        phase=st.sampled_from(["dumped", "stopped", "exited", "lost", "refused", "hung"]),
        late=st.sampled_from([0, 0, 0, 1]),
        stored=st.booleans(),
        code=st.integers(0, 1),
    )
    def report(self, i: int, which: int, phase: Phase, late: int, stored: bool, code: int) -> None:
        """Anything may be reported: twice, late, by a node that the job left, of a former life."""
        jobs = self.memory.jobs()
        job = jobs[sorted(jobs)[i % len(jobs)]]
        nodes = sorted(job.nodes) or NODES
        if job.incarnation > late:
            job = replace(job, incarnation=job.incarnation - late)
            self.tell(job, nodes[which % len(nodes)], phase, stored, code)

    def tell(self, job: Job, node: NodeId, phase: Phase, stored: bool, code: int = 0) -> None:
        ranks = next((s.ranks for s in job.placement if s.node == node), ())
        wanted = job.target if stored else job.placement  # not stored: its ranks did not follow
        engine = job.spec.engines[job.cutting]
        image = ShardImage(node, ranks, "d" * 8, job.cut, 10, 3, engine)
        said = Report(
            job=job.id,
            node=node,
            incarnation=job.incarnation,
            phase=phase,
            cut=job.cut,
            image=image if stored and job.cut else None,
            step=job.step,
            exit_code=code if phase == "exited" else None,
            corrupt=phase == "refused" and code == 1,
            unfit=phase == "refused" and code == 0 and stored,
            unable=Unable.JOB if code == 1 and not stored else None,
            reason="" if stored else "disk full",
            seconds={"dump": 0.5 * (1 + job.cut % 3), "restore": 1.0 + which_of(node)},
            resize=job.resize if phase == "running" else 0,
            devices=next((s.devices for s in wanted if s.node == node), 0),
            certificate=FOUND if job.spec.aside and stored and phase == "exited" else None,
            endpoint=f"{node}:80" if job.spec.serving and stored and phase == "running" else "",
        )
        self.same(methodcaller("record", said, self.now_s))

    @rule(i=st.integers(0, 3), known=st.booleans())
    def verify(self, i: int, known: bool) -> None:
        """Of the newest checkpoint, or of one that is still to be taken; a few at a time."""
        job = self.memory.jobs()[JOBS[i]]
        last, number = job.checkpoint, len(self.memory.jobs())
        if job.state not in TERMINAL and number < len(JOBS) + 3:
            named = (last.incarnation, last.cut) if known and last else (0, 0)
            made = shadow(job, Aside(job.id, 4, *named), JobId(f"{job.id}-v{number}"), self.now_s)
            self.same(methodcaller("submit", made))

    @rule(tier=st.sampled_from(Tier), idle=st.booleans(), most=st.integers(1, 3))
    def serve(self, tier: Tier, idle: bool, most: int) -> None:
        """A service, or one more of the same name."""
        self.services += 1
        wanted = service(
            f"s{self.services}", 1, most, tier=tier, idle_after_s=5.0 if idle else None
        )
        spec = replace(wanted.spec, device="cpu")
        wanted = replace(wanted, name="cnn", spec=spec, slo=Slo(Promise.WAIT, 1.0))
        self.same(lambda x: x.open_service(*opened(wanted, self.ids(wanted.id), self.now_s)))

    def ids(self, name: str) -> Callable[[int], list[JobId]]:
        """The same for both ledgers."""
        first = len(self.memory.jobs())
        return lambda count: [JobId(f"{name}-{first + n:03}") for n in range(count)]

    @rule(
        which=st.integers(1, 3),
        how=st.sampled_from(["rescale", "roll", "try", "end"]),
        most=st.integers(1, 4),
    )
    def amend(self, which: int, how: str, most: int) -> None:
        ids = self.ids(f"s{which}-{how}")

        def change(now: Service) -> Amended:
            if how == "end":
                return ended(now)
            if how == "rescale":
                return rescaled(now, 1, most, now.target, ids, self.now_s)
            wanted = replace(now, spec=replace(now.spec, run=(f"v{now.latest + 1}",)))
            canary = Canary(0.5, 8, 60.0) if how == "try" else None
            return updated(now, wanted, canary, ids, self.now_s)

        self.same(lambda x: x.change_service(ServiceId(f"s{which}"), how, change, self.now_s))

    @rule(
        router=st.sampled_from(["a", "b"]),
        busy=st.sampled_from([0.0, 0.5, 4.0]),
        arrivals=st.integers(0, 9),
        failed=st.integers(0, 2),
        revision=st.integers(1, 3),
        jumps=st.sampled_from([None, 0.0, 24.5]),
        leaves=st.booleans(),
    )
    def hear_router(
        self,
        router: str,
        busy: float,
        arrivals: int,
        failed: int,
        revision: int,
        jumps: float | None,
        leaves: bool,
    ) -> None:
        """Of all services, and some that there are not. Halves add up in any order."""
        self.now_s += 0.25
        counts = {"arrivals": arrivals, "done": arrivals, "failed": failed, "queued": failed}
        waits = (arrivals, *NONE[1:])
        notes = tuple(
            LoadNote(
                service=ServiceId(f"s{n}"), revision=revision, span_s=0.5, busy=busy
            ).model_copy(update={**counts, "waits": waits, "jumps": jumps})
            for n in range(1, 4)
        )
        left = {j.id: 0 for j in self.memory.jobs().values() if j.leaving_at_s and leaves}
        loads = Loads(router=router, notes=notes, leaving=left)
        self.same(lambda x: x.hear_router("r0", loads, self.now_s))

    @rule(node=st.sampled_from(NODES), epoch=st.integers(0, 1), seq=st.integers(0, 6))
    def hear(self, node: NodeId, epoch: int, seq: int) -> None:
        known = self.memory.nodes().get(node)
        epoch += known.epoch if known else 0
        self.now_s += 0.1
        self.same(lambda x: x.hear(node, epoch, seq, self.now_s))
        self.same(lambda x: x.letters(node, epoch, seq))

    @rule(node=st.sampled_from(NODES), heard=st.booleans())
    def lose(self, node: NodeId, heard: bool) -> None:
        known = self.memory.nodes().get(node)
        at_s = (known.heard_s if known else 0.0) - (1.0 if heard else 0.0)
        self.same(lambda x: x.lose({node: at_s}, self.now_s))

    @rule(scope=st.sampled_from(SCOPES), duty=st.sampled_from([*Duty, Duty.READY, Duty.READY]))
    def set_duty(self, scope: Scope, duty: Duty) -> None:
        self.same(lambda x: x.set_duty(scope, duty, self.now_s))

    @rule(node=st.sampled_from([*NODES, NodeId("nowhere")]), quiet_s=st.sampled_from([0.0, 1e6]))
    def remove(self, node: NodeId, quiet_s: float) -> None:
        self.same(lambda x: x.remove_node(node, self.now_s, quiet_s))

    @rule(node=st.sampled_from(NODES), sick=st.sampled_from([(), ("0: Xid 79",)]))
    def examine(self, node: NodeId, sick: tuple[str, ...]) -> None:
        self.same(lambda x: x.examine(node, sick))

    @rule(
        node=st.sampled_from(NODES),
        i=st.integers(0, 4),
        rank=st.integers(0, 3),
        lost_s=st.sampled_from([0.5, 20.0, 30.0, 500.0]),
    )
    def charge(self, node: NodeId, i: int, rank: int, lost_s: float) -> None:
        name = [*JOBS, JobId("unknown")][i]
        job = self.memory.jobs().get(name)
        lost = {name: (Loss(rank, job.incarnation if job else 1, lost_s),)}
        self.same(lambda x: x.charge(node, lost, self.now_s))

    @rule(
        node=st.sampled_from([*NODES, NodeId("nowhere")]), put=st.booleans(), drains=st.booleans()
    )
    def quarantine(self, node: NodeId, put: bool, drains: bool) -> None:
        found = Quarantine(self.now_s, self.now_s + 60.0, "a look", drains) if put else None
        self.same(lambda x: x.quarantine(node, found, self.now_s))

    @rule(end=st.booleans())
    def rebalance(self, end: bool) -> None:
        self.orders += 1
        if end:
            there = self.memory.snapshot(self.now_s).rebalancing
            name = there.id if there else "none"
            self.same(lambda x: x.settle_rebalancing(name, self.now_s))
        else:
            found = Rebalancing(f"r{self.orders}", self.now_s, self.now_s + 60.0)
            self.same(lambda x: x.order_rebalancing(found))

    @rule(scope=st.sampled_from(SCOPES), hour=st.integers(0, 2))
    def plan_maintenance(self, scope: Scope, hour: int) -> None:
        """Windows are short, and so near to each other that a run meets several."""
        self.orders += 1
        name = f"m{self.orders}"
        found = Maintenance(name, scope, f"daily 0{hour}:0{self.orders % 6}", 100.0)
        self.same(lambda x: x.plan_maintenance(found, self.now_s))

    @rule(
        scope=st.sampled_from(SCOPES),
        leaving=st.sampled_from(Leaving),
        most=st.sampled_from([None, 1]),
        pace=st.sampled_from([None, 1e6]),
    )
    def open_drain(
        self, scope: Scope, leaving: Leaving, most: int | None, pace: float | None
    ) -> None:
        self.orders += 1
        order = Drain(f"drain-{self.orders}", scope, self.now_s, leaving, None, most)
        order = replace(order, bytes_per_s=pace, until_s=self.now_s + 400.0 if pace else None)
        self.same(lambda x: x.open_drain(order))
        self.same(lambda x: x.drains())

    @rule(which=st.integers(0, 2), end=st.sampled_from(["pause", "resume", "close"]))
    def change_drain(self, which: int, end: str) -> None:
        known = [d.id for d in self.memory.drains()][which : which + 1]
        for id_ in (*known, "unknown"):
            if end == "close":
                self.same(lambda x, id_=id_: x.close_drain(id_, self.now_s))
            else:
                self.same(
                    lambda x, id_=id_: x.pause_drain(id_, paused=end == "pause", now_s=self.now_s)
                )
        self.same(lambda x: x.drains())

    @rule(i=st.integers(0, 3), intent=st.sampled_from([Intent.RUN, Intent.RUN, *Intent]))
    def intend(self, i: int, intent: Intent) -> None:
        self.same(lambda x: x.intend(JOBS[i], intent, self.now_s))

    @rule(i=st.integers(0, 3), scope=st.sampled_from([None, *SCOPES]))
    def confine(self, i: int, scope: Scope | None) -> None:
        self.same(lambda x: x.confine(JOBS[i], scope, self.now_s))

    @rule(i=st.integers(0, 3), devices=st.integers(1, 4))
    def resize(self, i: int, devices: int) -> None:
        job = self.memory.jobs().get(JOBS[i])
        if job is None or job.spec.devices_min <= devices <= job.spec.devices_max:
            self.same(lambda x: x.resize(JOBS[i], devices, self.now_s))

    @rule(i=st.integers(0, 3))
    def request_checkpoint(self, i: int) -> None:
        self.same(lambda x: x.request_checkpoint(JOBS[i], self.now_s))

    @rule(i=st.integers(0, 3), life=st.integers(1, 3), cut=st.integers(1, 3))
    def go_back(self, i: int, life: int, cut: int) -> None:
        self.same(lambda x: x.go_back(JOBS[i], (life, cut), self.now_s))

    @rule(
        which=st.integers(0, 2),
        parent=st.sampled_from(["", "", "team", "p0", "unknown"]),
        weight=st.sampled_from([1.0, 2.5, 0.0]),
        said=st.lists(
            st.builds(
                Allotment,
                st.sampled_from(["cpu", "cpu", "gpu"]),
                st.integers(-1, 8),
                st.sampled_from([None, 0, 3]),
                st.sampled_from([None, 0, 3]),
            ),
            max_size=2,
            unique_by=lambda a: a.kind,
        ),
    )
    def set_project(self, which: int, parent: str, weight: float, said: list[Allotment]) -> None:
        made = Project(PROJECTS[which], parent, weight, tuple(said))
        self.same(lambda x: x.set_project(made, self.now_s))

    @rule(scope=st.sampled_from(SCOPES), cost=st.sampled_from([0.5, 2.0, -1.0]))
    def set_tariff(self, scope: Scope, cost: float) -> None:
        self.same(lambda x: x.set_tariff(Tariff(scope, cost, 2 * cost)))
        self.same(lambda x: x.tariffs())

    @rule()
    def acknowledge(self) -> None:
        self.same(lambda x: x.acknowledge("ada", self.now_s))

    @rule(i=st.integers(0, 3))
    def retire(self, i: int) -> None:
        self.same(lambda x: x.retire({JOBS[i], JobId("unknown")}, self.now_s))


def test_both_ledgers_agree(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledgers, "engine", engine, raising=False)
    monkeypatch.setattr(books, "POURED", 2)  # so that plans of a few jobs are written in pieces
    bounded = settings(
        max_examples=25,
        stateful_step_count=40,
        derandomize=True,
        phases=[Stage.generate],  # shrinking on a real database takes minutes; runs are equal
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Ledgers, settings=bounded)
