"""One transaction's worth of changes to jobs and nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Text, cast, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives import asides, lending
from singularity.primitives.holdings import concerned, rebooked
from singularity.primitives.messages import Envelope, Report
from singularity.primitives.model import TERMINAL, Job, JobId
from singularity.primitives.nodes import Node, NodeId
from singularity.primitives.projects import Project, claim
from singularity.primitives.records import replace
from singularity.primitives.sla import accounted
from singularity.primitives.verbs import Step

from . import projects
from . import service_tables as st
from . import tables as t
from .bulk import Json, Question, Writes, array_of
from .database import LETTERS, WAKE
from .lives import Lives
from .rows import (
    Submission,
    checkpoint_row,
    held_rows,
    job_of,
    job_row,
    letter_row,
    node_of,
    node_row,
    place_of,
    state_row,
)
from .story import Happening, tell

JOBS: Final = (
    "SELECT s.id, s.state, s.body::text, j.spec::text FROM job_state s JOIN job j ON j.id = s.id"
)
_JOBS: Final = f"{JOBS} WHERE s.id = ANY (%s::text[])"
_NODE: Final = tuple(column.name for column in t.node.c)
OVER: Final = frozenset(str(state) for state in TERMINAL)  # as they stand in rows
COLUMNS: Final = ", ".join(_NODE)
POURED: Final = 500  # jobs
_NODES: Final = f"SELECT {COLUMNS} FROM node WHERE id = ANY (%s::text[])"
JOB: Final = (cast(t.job_state.c.body, Text), cast(t.job.c.spec, Text))


def load_jobs(db: Connection, which: ColumnElement[bool]) -> list[Job]:
    return read_jobs(db, select(*JOB).join(t.job, t.job.c.id == t.job_state.c.id).where(which))


def read_jobs(db: Connection, query: Select[str, str]) -> list[Job]:
    """`query` selects JOB, and gives the order."""
    return [job_of(body, spec) for body, spec in db.execute(query)]


def these_jobs(ids: Collection[JobId]) -> Question:
    """`jobs_from` reads the answer."""
    return Question(_JOBS, (array_of(ids),))


def these_nodes(ids: Collection[NodeId]) -> Question:
    """`nodes_from` reads the answer."""
    return Question(_NODES, (array_of(ids),))


def locking(question: Question, rows: str) -> Question:
    """The same, locked in the order of their ids until the transaction ends."""
    return Question(f"{question.sql} ORDER BY {rows}.id FOR UPDATE OF {rows}", question.given)


def jobs_from(rows: Iterable[tuple[Any, ...]]) -> dict[JobId, Job]:
    return {job.id: job for job in [job_of(body, spec) for _, _, body, spec in rows]}


class Readings:
    """Living jobs as they were read last, with the text that said so: the same text is the same
    job, whoever wrote it and when, and need not be parsed again."""

    def __init__(self) -> None:
        self._known: dict[JobId, tuple[str, str, Job]] = {}

    def jobs_from(self, rows: Iterable[tuple[Any, ...]]) -> dict[JobId, Job]:
        """As the function of that name."""
        found = {}
        for id_, state, body, spec in rows:
            known = self._known.get(id_)
            if known is None or known[0] != body or known[1] != spec:
                known = body, spec, job_of(body, spec)
                self._known[id_] = known
            found[id_] = known[2]
            if state in OVER:
                del self._known[id_]
        return found

    def forget(self, ids: Iterable[JobId] | None = None) -> None:
        """Those, or all."""
        for each in list(self._known) if ids is None else ids:
            self._known.pop(each, None)


def nodes_from(rows: Iterable[tuple[Any, ...]]) -> dict[NodeId, Node]:
    found = [node_of(dict(zip(_NODE, row, strict=True))) for row in rows]
    return {node.id: node for node in found}


def load_nodes(db: Connection, query: Select[Any]) -> list[Node]:
    return [node_of(row) for row in db.execute(query).mappings()]


def insert_jobs(
    db: Connection, new: Sequence[tuple[Job, Submission]], end: End | None = None
) -> None:
    """All of each in one message. With an `end`, that is the end of the transaction."""
    if not new:
        return
    books = Books(db, {}, {})
    for job, submission in new:
        books.open(job, submission)
    books.flush(end)


@dataclass(frozen=True, slots=True)
class End:
    """How a transaction ends. Not `synced`, it does not wait for the disk, unless there are
    letters: what nodes are told must be on it before. One that `rings` wakes the loops."""

    synced: bool = True
    rings: bool = False


class Books:
    """Changes to locked jobs and nodes, collected, then written in a few statements by flush().

    `jobs` and `nodes` always show the state after what was collected so far.
    """

    def __init__(
        self,
        db: Connection,
        jobs: Mapping[JobId, Job],
        nodes: Mapping[NodeId, Node],
        governed: Iterable[Project] = (),
    ) -> None:
        """`governed` are projects that are locked already, as they are."""
        self._db = db
        self._governed = {project.id: project.usage for project in governed}
        self.jobs, self.nodes = dict(jobs), dict(nodes)
        self._before: dict[JobId, Job] = {}
        self._touched: set[NodeId] = set()
        self._moved: set[JobId] = set()  # who holds something else than before
        self._new: list[tuple[Job, Submission]] = []
        self._letters: list[Envelope] = []
        self._lettered = False  # some were written in this transaction
        self._events: list[Json] = []
        self._loans: list[Json] = []
        self._lives, self._writes = Lives(db), Writes(db)
        self._used: Counter[tuple[str, str]] = Counter()  # more devices by project and kind
        self._due_s = 0.0

    def open(self, job: Job, submission: Submission) -> None:
        """A job that is new."""
        self._new.append((job, submission))
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
        self._lives.tell(before, after, reason, self.nodes, now_s)
        if after.checkpoints != before.checkpoints and after.spec.aside is None:
            self._keep_checkpoints(before, after)
        aside = after.spec.aside
        if aside is not None and asides.certifies(before, after) and aside.of in self.jobs:
            told = asides.certified(self.jobs[aside.of], after, now_s)
            why = told.certificate.reason if told.certificate else ""
            self.write(self.jobs[aside.of], Step(told), why, now_s)

    def charge(self, before: Job, after: Job) -> None:
        """Only its account has changed: that is no event of its history."""
        if after != before:
            self._keep(before, after)

    def timed(self, before: Job, report: Report) -> None:
        """Add the seconds that a report tells to the incarnation that it is about."""
        if report.seconds and report.incarnation == before.incarnation:
            self._lives.timed(report)

    def pour(self) -> None:
        """Let the database begin with what was collected of jobs, where that is much: it writes
        them while the next are thought of. Until the books are flushed or settled, nobody else may
        use the connection."""
        if len(self._before) >= POURED:
            self._collect()
            self._writes.begin()

    def settle(self) -> None:
        """The connection is free again."""
        self._writes.settle()

    def flush(self, end: End | None = None) -> None:
        """Write what was collected. Capacity that does not add up fails here, by CHECK. With an
        `end`, that is the end of the transaction."""
        writes = self._writes
        if end and not end.synced and not (self._letters or self._lettered):
            writes.unsynced()
        self._collect()
        writes.update(t.node, ("id",), [node_row(self.nodes[n]) for n in sorted(self._touched)])
        if self._used:
            projects.charge(self._db, writes, self._used, self._due_s, self._governed)
        if self._lettered:
            writes.notify(LETTERS)
        if end:
            if end.rings:
                writes.notify(WAKE)
            writes.commit()
        writes.send()
        self._touched, self._used, self._lettered = set(), Counter(), False

    def _collect(self) -> None:
        """What was collected of jobs, as statements."""
        writes, changed = self._writes, [(b, self.jobs[i]) for i, b in sorted(self._before.items())]
        counts = Counter(row["job"] for row in self._events)
        writes.insert(t.job, [job_row(*new) for new in self._new])
        writes.insert(t.job_state, [state_row(job, counts[job.id]) for job, _ in self._new])
        if changed:
            self._write_jobs(changed, counts)
        self._lives.flush(writes)
        if self._letters:
            self._write_letters()
        writes.run(_EVENTS, t.event, _numbered(self._events, counts))
        writes.insert(st.loan, self._loans)
        self._before, self._moved, self._new = {}, set(), []
        self._letters, self._events, self._loans = [], [], []

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
            self._moved.add(after.id)

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

    def _keep_checkpoints(self, before: Job, after: Job) -> None:
        self.settle()
        row = t.checkpoint
        for made in after.checkpoints:
            if made not in before.checkpoints:
                found = upsert(row).values(checkpoint_row(after.id, made))
                self._db.execute(found.on_conflict_do_nothing())
        for gone in before.checkpoints:
            if gone not in after.checkpoints:
                mine = (row.c.job == after.id) & (row.c.incarnation == gone.incarnation)
                dropped = update(row).where(mine & (row.c.cut == gone.cut)).values(counts=False)
                self._db.execute(dropped)

    # -- writing ---------------------------------------------------------------------------------

    def _write_jobs(self, changed: list[tuple[Job, Job]], counts: Counter[str]) -> None:
        rows = (state_row(after, counts[after.id]) for _, after in changed)
        self._writes.update(t.job_state, ("id",), rows, counter="events")
        lent = [
            (after.id, bool(after.loans))
            for b, after in changed
            if bool(b.loans) != bool(after.loans)
        ]
        self._writes.insert(st.lender, [{"job": job} for job, lends in lent if lends])
        self._writes.run(_REPAID, st.lender, [{"job": job} for job, lends in lent if not lends])
        moved = [(before, after) for before, after in changed if after.id in self._moved]
        left = [{"job": before.id} for before, _ in moved if before.placement or before.target]
        self._writes.run(_LEFT, t.shard, left)
        self._writes.insert(t.shard, [row for _, after in moved for row in held_rows(after)])

    def _write_letters(self) -> None:
        due = {"due_at_s": self._due_s, "attempts": 0}
        self._writes.insert(t.node_log, (letter_row(letter) for letter in self._letters))
        self._writes.insert(t.outbox, ({**place_of(each), **due} for each in self._letters))
        self._lettered = True


_LEFT: Final = "DELETE FROM shard USING {new} WHERE shard.job = new.job"
_REPAID: Final = "DELETE FROM lender USING {new} WHERE lender.job = new.job"
# Numbers are counted with the job's row, which knows already how many these are.
_EVENTS: Final = """
INSERT INTO event (job, seq, at_s, event, before, after, reason, incarnation, node, facts)
SELECT new.job, s.events + new.seq, new.at_s, new.event, new.before, new.after, new.reason,
       new.incarnation, new.node, new.facts::jsonb
FROM {new} JOIN job_state s ON s.id = new.job"""


def _numbered(events: list[Json], counts: Counter[str]) -> list[Json]:
    """How far before the last that there will be of its job: 0 is the last."""
    seen = Counter[str]()
    for row in events:
        seen[row["job"]] += 1
        row["seq"] = seen[row["job"]] - counts[row["job"]]
    return events
