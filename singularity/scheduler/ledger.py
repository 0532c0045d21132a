"""The write side of the control plane: every change of truth is one of these calls.

Two implementations: api.applier.SqlLedger on Postgres, and sim.ledger.MemoryLedger. A contract
test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from singularity.primitives.drains import Drain
from singularity.primitives.health import Quarantine
from singularity.primitives.lending import Repaid
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.messages import Envelope, Register, Report
from singularity.primitives.model import Intent, Job, JobId
from singularity.primitives.nodes import Duty, Node, NodeId, Scope
from singularity.primitives.operations import PLANE, By
from singularity.primitives.projects import Project
from singularity.primitives.rebalancing import Rebalancing
from singularity.primitives.routing import Loads
from singularity.primitives.service import Loss
from singularity.primitives.serving import ServiceId
from singularity.primitives.tariffs import Tariff

from .orders import Order
from .plan import Plan
from .services import Amended, Service
from .snapshot import Snapshot


class Ledger(Protocol):
    def submit(self, job: Job) -> None: ...

    def snapshot(self, now_s: float) -> Snapshot:
        """Nodes that were ever admitted, jobs that have not ended, and those they wait for."""
        ...

    def commit(self, plan: Plan, now_s: float) -> dict[JobId, str]:
        """Carry out each action that is still admissible; the rest, with the reason why not."""
        ...

    def record(self, report: Report, now_s: float) -> bool:
        """Fold one report in. True when the node need not repeat it."""
        ...

    def register(self, register: Register, now_s: float) -> Node:
        """Admit a node. One that is new, was lost, or comes with another epoch than ours opens the
        next epoch: every job believed there fails over and its log starts anew. One that merely
        restarted its agent keeps its epoch."""
        ...

    def hear(self, node: NodeId, epoch: int, acknowledged: int, now_s: float) -> int | None:
        """A heartbeat: drop what is acknowledged; the last seq written, None if not admitted."""
        ...

    def examine(self, node: NodeId, sick: tuple[str, ...]) -> None:
        """Devices that the node finds unwell, each with the reason. One unknown says nothing."""
        ...

    def charge(self, node: NodeId, lost: Mapping[JobId, Sequence[Loss]], now_s: float) -> None:
        """What ranks lost of their shares, as their node says: it counts as not given. Of jobs
        that there are not, nothing."""
        ...

    def carry_out(self, orders: Sequence[Order], now_s: float) -> None:
        """Make each true that still applies."""
        ...

    def quarantine(
        self, node: NodeId, quarantine: Quarantine | None, now_s: float, by: By = PLANE
    ) -> Node:
        """Keep work away from it by an operator's word, or let it come again. Raises NotFound, and
        Conflict when it is so already."""
        ...

    def lose(self, silent: Mapping[NodeId, float], now_s: float) -> list[NodeId]:
        """Declare nodes lost, unless they were heard after the given time; those it concerns."""
        ...

    def set_duty(self, scope: Scope, duty: Duty, now_s: float, by: By = PLANE) -> list[NodeId]:
        """Cordon or put back what is in `scope`; the nodes that it concerns."""
        ...

    def remove_node(self, node: NodeId, now_s: float, quiet_s: float, by: By = PLANE) -> None:
        """Forget a node that nothing runs on, and its cluster and region with the last of theirs.
        Raises NotFound, and Conflict, saying what to do, when it is still of use, or was heard
        within `quiet_s`."""
        ...

    def open_drain(self, drain: Drain, by: By = PLANE) -> Drain:
        """Put it in force: from now on its nodes are left. The same scope being drained already in
        the same way, that drain. Raises Conflict when any of it is drained already otherwise."""
        ...

    def pause_drain(self, drain: str, *, paused: bool, now_s: float, by: By = PLANE) -> Drain:
        """Let no move begin, or let them begin again. Raises NotFound unless it is in force."""
        ...

    def close_drain(self, drain: str, now_s: float, by: By = PLANE) -> Drain:
        """Its nodes take work again; what is under way goes on, and a window that it was for is
        given up. Raises NotFound as before."""
        ...

    def plan_maintenance(self, found: Maintenance, now_s: float, by: By = PLANE) -> None: ...

    def drains(self) -> list[Drain]:
        """Those in force."""
        ...

    def order_rebalancing(self, found: Rebalancing, by: By = PLANE) -> None:
        """Put it in force. Raises Conflict when there is one already."""
        ...

    def settle_rebalancing(self, rebalancing: str, now_s: float, by: By = PLANE) -> None:
        """End it; moves under way go on. Raises NotFound unless it is in force."""
        ...

    def set_project(self, project: Project, now_s: float) -> Project:
        """Make it so, and keep what it has used. Raises NotFound where its parent is unknown, and
        InvalidSpec where its guarantees cannot be kept (primitives.projects.admitted)."""
        ...

    def projects(self) -> list[Project]:
        """All that ever had a job or were set, by id."""
        ...

    def set_tariff(self, tariff: Tariff) -> None:
        """In place of the one that was. Raises InvalidSpec (primitives.tariffs.checked)."""
        ...

    def tariffs(self) -> list[Tariff]: ...

    def intend(self, job: JobId, intent: Intent, now_s: float) -> Job: ...

    def confine(self, job: JobId, scope: Scope | None, now_s: float) -> Job: ...

    def resize(self, job: JobId, devices: int, now_s: float) -> Job: ...

    def request_checkpoint(self, job: JobId, now_s: float) -> Job: ...

    def go_back(self, job: JobId, to: tuple[int, int], now_s: float) -> Job:
        """To the checkpoint of that incarnation and number."""

    def acknowledge(self, actor: str, now_s: float) -> None:
        """An operator approves of the evictions until now: they bound no others any more."""
        ...

    def retire(self, jobs: Collection[JobId], now_s: float) -> None:
        """Give up the checkpoints of those of `jobs` that have ended."""
        ...

    def open_service(self, service: Service, replicas: Sequence[Job]) -> Service:
        """A new one and its replicas. Raises Conflict when the project has one of that name."""
        ...

    def change_service(
        self, service: ServiceId, event: str, change: Callable[[Service], Amended], now_s: float
    ) -> Service:
        """What its owner wants of it now. Raises NotFound, and what `change` raises."""
        ...

    def hear_router(self, region: str, loads: Loads, now_s: float) -> None:
        """What one router saw since its last post. Of services that there are not, nothing."""
        ...

    def services(self) -> list[Service]:
        """Those that have not ended, by id."""
        ...

    def loans(self) -> list[tuple[JobId, Repaid]]:
        """Those that are over, in the order in which they ended; others are with their jobs."""
        ...

    def letters(self, node: NodeId, epoch: int, after: int) -> list[Envelope]:
        """What was written to the node after `after` and is not acknowledged, in order."""
        ...

    def unsent(self) -> list[Envelope]:
        """Everything not acknowledged, by node and seq."""
        ...

    def jobs(self) -> Mapping[JobId, Job]: ...

    def nodes(self) -> Mapping[NodeId, Node]: ...
