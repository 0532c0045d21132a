"""The write side of the control plane: every change of truth is one of these calls.

Two implementations: api.applier.SqlLedger on Postgres, and sim.ledger.MemoryLedger. A contract
test holds them together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from singularity.primitives.drains import Drain
from singularity.primitives.messages import Envelope, Register, Report
from singularity.primitives.model import Duty, Intent, Job, JobId, Node, NodeId, Scope
from singularity.primitives.projects import Project
from singularity.primitives.tariffs import Tariff

from .plan import Plan
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

    def lose(self, silent: Mapping[NodeId, float], now_s: float) -> list[NodeId]:
        """Declare nodes lost, unless they were heard after the given time; those it concerns."""
        ...

    def set_duty(self, scope: Scope, duty: Duty, now_s: float) -> list[NodeId]:
        """Cordon or put back what is in `scope`; the nodes that it concerns."""
        ...

    def open_drain(self, drain: Drain, actor: str, reason: str = "") -> Drain:
        """Put it in force: from now on its nodes are left. The same scope being drained already in
        the same way, that drain. Raises Conflict when any of it is drained already otherwise."""
        ...

    def pause_drain(self, drain: str, *, paused: bool) -> Drain:
        """Let no move begin, or let them begin again. Raises NotFound unless it is in force."""
        ...

    def close_drain(self, drain: str, now_s: float) -> Drain:
        """Its nodes take work again; what is under way goes on. Raises NotFound as before."""
        ...

    def drains(self) -> list[Drain]:
        """Those in force."""
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

    def acknowledge(self, actor: str, now_s: float) -> None:
        """An operator approves of the evictions until now: they bound no others any more."""
        ...

    def retire(self, jobs: Collection[JobId], now_s: float) -> None:
        """Give up the checkpoints of those of `jobs` that have ended."""
        ...

    def letters(self, node: NodeId, epoch: int, after: int) -> list[Envelope]:
        """What was written to the node after `after` and is not acknowledged, in order."""
        ...

    def unsent(self) -> list[Envelope]:
        """Everything not acknowledged, by node and seq."""
        ...

    def jobs(self) -> Mapping[JobId, Job]: ...

    def nodes(self) -> Mapping[NodeId, Node]: ...
