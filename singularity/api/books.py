"""Rows and nouns: how jobs and nodes are kept, and one transaction's worth of changes to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    bindparam,
    cast,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives import asides, lending
from singularity.primitives.health import WELL, Health
from singularity.primitives.holdings import concerned, holdings, rebooked, spots
from singularity.primitives.messages import Envelope, Report
from singularity.primitives.model import Checkpoint, Job, JobId, JobSpec
from singularity.primitives.nodes import Duty, Node, NodeId
from singularity.primitives.projects import claim
from singularity.primitives.sharing import Part
from singularity.primitives.sla import accounted
from singularity.primitives.verbs import Step

from . import projects
from . import service_tables as st
from . import tables as t
from .story import Happening, end_of, resized, tell, with_seconds

_JOB, _SPEC = TypeAdapter(Job), TypeAdapter(JobSpec)
_SHARDS, _HEALTH = TypeAdapter(Checkpoint), TypeAdapter(Health)
Json = dict[str, Any]
_PART = tuple(f.name for f in fields(Part))
_PARTS = ("part_index", "part_milli", "part_bytes")  # a column for each field of a Part


def job_of(body: Json, spec: Json) -> Job:
    return _JOB.validate_python({**body, "spec": spec})


def node_of(row: Mapping[Any, Any]) -> Node:
    health = _HEALTH.validate_python(row["health"]) if row["health"] else WELL
    found = {**row, "duty": Duty(row["duty"]), "health": health}
    parts = tuple(map(Part, *(found.pop(column) for column in _PARTS)))
    return Node(**found, parts=parts)


def spec_to_json(spec: JobSpec) -> Json:
    found: Json = _SPEC.dump_python(spec, mode="json")
    return found


def node_row(node: Node) -> Json:
    health = _HEALTH.dump_python(node.health, mode="json", exclude_defaults=True)
    row = {**asdict(node), "duty": int(node.duty), "health": health}
    parts = row.pop("parts")
    return row | {
        column: [part[name] for part in parts] for column, name in zip(_PARTS, _PART, strict=True)
    }


def load_jobs(db: Connection, which: ColumnElement[bool]) -> list[Job]:
    query = select(t.job_state.c.body, t.job.c.spec)
    query = query.join(t.job, t.job.c.id == t.job_state.c.id).where(which)
    return [job_of(body, spec) for body, spec in db.execute(query)]


def load_nodes(db: Connection, query: Select[Any]) -> list[Node]:
    return [node_of(row) for row in db.execute(query).mappings()]


@dataclass(frozen=True, slots=True)
class Submission:
    """What came with a submit: retried requests are told from new ones by `key` and `digest`."""

    key: str | None = None
    digest: str | None = None


def insert_jobs(db: Connection, new: Sequence[tuple[Job, Submission]]) -> None:
    if not new:
        return
    db.execute(insert(t.job), [_job_row(job, submission) for job, submission in new])
    books = Books(db, {}, {})
    for job, _ in new:
        books.open(job)
    books.flush()


class Books:
    """Changes to locked jobs and nodes, collected, then written in a few statements by flush().

    `jobs` and `nodes` always show the state after what was collected so far.
    """

    def __init__(
        self, db: Connection, jobs: Mapping[JobId, Job], nodes: Mapping[NodeId, Node]
    ) -> None:
        self._db = db
        self.jobs, self.nodes = dict(jobs), dict(nodes)
        self._before: dict[JobId, Job] = {}
        self._touched: set[NodeId] = set()
        self._new: list[Job] = []
        self._letters: list[Envelope] = []
        self._events: list[Json] = []
        self._loans: list[Json] = []
        self._used: Counter[tuple[str, str]] = Counter()  # more devices by project and kind
        self._due_s = 0.0

    def open(self, job: Job) -> None:
        """A job that is new."""
        self._new.append(job)
        facts = {"devices": job.devices, "ranks": job.spec.ranks}
        line = Happening("submitted", "", job.state, "", 0, facts)
        self._note(job.id, line, job.submitted_at_s, None)

    def put(self, node: Node) -> None:
        self.nodes[node.id] = node
        self._touched.add(node.id)

    def wish(self, before: Job, after: Job, reason: str, now_s: float) -> Job:
        """A change of what the owner wants, which moves nothing by itself; returns what is kept."""
        after = self._accounted(before, after, now_s)
        self._keep(before, after)
        line = Happening("asked", before.state, after.state, reason, after.incarnation)
        self._note(after.id, line, now_s, None)
        return after

    def write(
        self, before: Job, step: Step, reason: str, now_s: float, node: NodeId | None = None
    ) -> None:
        """One step of a job: its row, what it holds, its history, its letters."""
        if step.job == before:
            return
        after = self._accounted(before, step.job, now_s)
        assert after.version > before.version, (before, after)
        self._keep(before, after)
        self._hold(before, after)
        if more := claim(after) - claim(before):
            self._used[after.spec.project, after.spec.device] += more
        for command in step.commands:
            target = self.nodes[command.node]
            target = replace(target, seq=target.seq + 1)
            self.put(target)
            letter = Envelope(node=target.id, epoch=target.epoch, seq=target.seq, command=command)
            self._letters.append(letter)
        self._due_s = now_s
        for line in tell(before, after, reason, self.nodes, now_s):
            self._note(after.id, line, now_s, node)
        self._timeline(before, after, reason, now_s)
        aside = after.spec.aside
        if aside is not None and asides.certifies(before, after) and aside.of in self.jobs:
            told = asides.certified(self.jobs[aside.of], after, now_s)
            why = told.certificate.reason if told.certificate else ""
            self.write(self.jobs[aside.of], Step(told), why, now_s)

    def charge(self, before: Job, after: Job) -> None:
        """Only its account has changed: that is no event of its history."""
        if after != before:
            self._keep(before, after)

    def timed(self, before: Job, after: Job, report: Report) -> None:
        """Add the seconds that a report tells to the incarnation that it is about."""
        if report.seconds and report.incarnation == before.incarnation:
            row = t.incarnation
            mine = (row.c.job == report.job) & (row.c.incarnation == report.incarnation)
            known = self._db.execute(select(row.c.seconds).where(mine)).scalar() or {}
            found = with_seconds(known, report)
            self._db.execute(update(row).where(mine).values(seconds=found))

    def flush(self) -> None:
        """Write what was collected. Capacity that does not add up fails here, by CHECK."""
        db, changed = self._db, [(b, self.jobs[i]) for i, b in sorted(self._before.items())]
        counts = Counter(row["job"] for row in self._events)
        if self._new:
            rows = [{**_state_row(j), "events": counts[j.id]} for j in self._new]
            db.execute(insert(t.job_state), rows)
        if changed:
            self._write_jobs(changed, counts)
        if self._touched:
            rows = [node_row(self.nodes[n]) for n in sorted(self._touched)]
            _update_by_id(db, t.node, rows)
        if self._letters:
            self._write_letters()
        if self._events:
            self._number(counts)
            db.execute(insert(t.event), self._events)
        if self._loans:
            db.execute(insert(st.loan), self._loans)
        if self._used:
            projects.charge(db, self._used, self._due_s)
        self._before, self._touched, self._new = {}, set(), []
        self._letters, self._events, self._loans = [], [], []
        self._used = Counter()

    # -- collecting ------------------------------------------------------------------------------

    def _accounted(self, before: Job, after: Job, now_s: float) -> Job:
        after, over = lending.repaid(accounted(before, after, now_s), now_s)
        for each in over:
            found = {**asdict(each.loan), "job": after.id, "until_s": each.until_s}
            self._loans.append(found)
        return after

    def _keep(self, before: Job, after: Job) -> None:
        self._before.setdefault(before.id, before)
        self.jobs[after.id] = after

    def _hold(self, before: Job, after: Job) -> None:
        for node in concerned(before, after):
            self.put(rebooked(self.nodes[node], before, after))

    def _note(self, job: JobId, line: Happening, now_s: float, node: NodeId | None) -> None:
        row = {
            "job": job,
            "seq": 0,
            "at_s": now_s,
            "event": line.event,
            "before": line.before,
            "after": line.after,
            "reason": line.reason,
            "incarnation": line.incarnation,
            "node": node,
            "facts": dict(line.facts),
        }
        self._events.append(row)

    def _timeline(self, before: Job, after: Job, reason: str, now_s: float) -> None:
        db, row = self._db, t.incarnation
        mine = row.c.job == after.id
        if (end := end_of(before, after, self.nodes, now_s)) is not None:
            ended = {"ended_at_s": now_s, "end": end.end, "step_to": end.step, "lost_s": end.lost_s}
            db.execute(update(row).where(mine, row.c.incarnation == end.incarnation).values(ended))
        if after.incarnation > before.incarnation:
            first = self.nodes[after.placement[0].node]
            placed = {
                "job": after.id,
                "incarnation": after.incarnation,
                "region": first.region,
                "cluster": first.cluster,
                "nodes": [s.node for s in after.placement],
                "devices": after.held,
                "step_from": after.origin.step if after.origin else 0,
                "placed_at_s": now_s,
                "reason": reason or after.message,
                "seconds": {},
                "resizes": [],
            }
            db.execute(insert(row).values(placed))
        if after.running_at_s is not None and after.running_at_s != before.running_at_s:
            running = {"running_at_s": after.running_at_s}
            db.execute(
                update(row).where(mine, row.c.incarnation == after.incarnation).values(running)
            )
        if resized(before, after):
            took_s = now_s - before.resize_at_s
            step = {
                "at_s": now_s,
                "devices": after.held,
                "seconds": took_s,
                "reason": before.message,
            }
            grown = row.c.resizes.concat(cast([step], JSONB))
            db.execute(
                update(row)
                .where(mine, row.c.incarnation == after.incarnation)
                .values(resizes=grown)
            )
        if after.checkpoints != before.checkpoints and after.spec.aside is None:
            self._keep_checkpoints(before, after)

    def _keep_checkpoints(self, before: Job, after: Job) -> None:
        row = t.checkpoint
        for made in after.checkpoints:
            if made not in before.checkpoints:
                found = upsert(row).values(_checkpoint_row(after.id, made))
                self._db.execute(found.on_conflict_do_nothing())
        for gone in before.checkpoints:
            if gone not in after.checkpoints:
                mine = (row.c.job == after.id) & (row.c.incarnation == gone.incarnation)
                dropped = update(row).where(mine & (row.c.cut == gone.cut)).values(counts=False)
                self._db.execute(dropped)

    # -- writing ---------------------------------------------------------------------------------

    def _write_jobs(self, changed: list[tuple[Job, Job]], counts: Counter[str]) -> None:
        rows = [_state_row(after) for _, after in changed]
        _update_by_id(self._db, t.job_state, rows)
        moved = [after for before, after in changed if concerned(before, after)]
        if moved:
            gone = t.shard.c.job.in_([job.id for job in moved])
            self._db.execute(t.shard.delete().where(gone))
        held = [{"job": job.id, **row} for job in moved for row in _held(job)]
        if held:
            self._db.execute(insert(t.shard), held)

    def _write_letters(self) -> None:
        rows = [
            {"node": e.node, "epoch": e.epoch, "seq": e.seq, "body": e.model_dump(mode="json")}
            for e in self._letters
        ]
        self._db.execute(insert(t.node_log), rows)
        places = [{"node": e.node, "epoch": e.epoch, "seq": e.seq} for e in self._letters]
        due = [{**place, "due_at_s": self._due_s, "attempts": 0} for place in places]
        self._db.execute(insert(t.outbox), due)

    def _number(self, counts: Counter[str]) -> None:
        """Give each job's events its next numbers, without gaps."""
        state = t.job_state
        if old := [job for job in sorted(counts) if job not in {j.id for j in self._new}]:
            query = select(state.c.id, state.c.events).where(state.c.id.in_(old))
            last = {job: int(events) for job, events in self._db.execute(query)}
            grown = [{"id": job, "events": last[job] + counts[job]} for job in old]
            _update_by_id(self._db, state, grown)
        else:
            last = {}
        for row in self._events:
            last[row["job"]] = last.get(row["job"], 0) + 1
            row["seq"] = last[row["job"]]


def _held(job: Job) -> list[Json]:
    """Rows of `shard`: devices as a whole, and those of which it has a share."""
    whole, shared = holdings(job), spots(job)
    return [
        {
            "node": node,
            "devices": whole[node] or len(shared[node]),
            "shares": sorted(shared.get(node, ())),
        }
        for node in sorted(whole.keys() | shared.keys())
    ]


def _state_row(job: Job) -> Json:
    body = _JOB.dump_python(job, mode="json", exclude={"spec"})
    for name in ("awaiting", "exited", "dumping", "resizing", "unfit"):
        body[name] = sorted(body[name])
    return {
        "id": job.id,
        "state": str(job.state),
        "version": job.version,
        "incarnation": job.incarnation,
        "body": body,
    }


def _job_row(job: Job, submission: Submission) -> dict[str, object]:
    return {
        "id": job.id,
        "project": job.spec.project,
        "name": job.spec.name,
        "kind": str(job.spec.kind),
        "tier": int(job.spec.tier),
        "spec": spec_to_json(job.spec),
        "submitted_at_s": job.submitted_at_s,
        "idempotency_key": submission.key,
        "body_digest": submission.digest,
    }


def _checkpoint_row(job: JobId, made: Checkpoint) -> Json:
    return {
        "job": job,
        "incarnation": made.incarnation,
        "cut": made.cut,
        "step": made.step,
        "at_s": made.at_s,
        "shards": _SHARDS.dump_python(made, mode="json")["shards"],
        "raw_bytes": sum(i.raw_bytes for i in made.shards),
        "new_bytes": sum(i.new_bytes for i in made.shards),
        "counts": True,
    }


def _update_by_id(db: Connection, table: Table, rows: list[Json]) -> None:
    names = [name for name in rows[0] if name != "id"]
    key: Column[Any] = table.c.id
    statement = update(table).where(key == bindparam("row_id"))
    statement = statement.values({name: bindparam(f"new_{name}") for name in names})
    found = [{"row_id": r["id"], **{f"new_{n}": r[n] for n in names}} for r in rows]
    db.execute(statement, found)
