"""Everything the routes read. Pages are by key, never by offset: the millionth costs as the first.

Nothing here locks or writes rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, select

from singularity.primitives.errors import Conflict, InvalidSpec, NotFound
from singularity.primitives.model import TERMINAL, Job, JobId, JobState, Tier
from singularity.primitives.nodes import Node, NodeId, Scope, ScopeKind

from . import tables as t
from .auth import Caller
from .books import JOB, load_nodes, read_jobs
from .bulk import among
from .rows import spec_to_json
from .views import Json, Outlook, job_view, node_view

PAGE_MOST: Final = 1000
_NAMESAKES_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked of a list: at most `limit` items after `cursor`."""

    limit: int = 100
    cursor: str | None = None

    def number(self) -> int:
        """The cursor of a list that is ordered by a number. Raises InvalidSpec."""
        try:
            found = int(self.cursor or 0)
        except ValueError:
            found = -1
        if not 0 <= found < 2**63:
            raise InvalidSpec(f"cursor {self.cursor!r} was not given by this list")
        return found


@dataclass(frozen=True, slots=True)
class Filter:
    state: str | None = None
    project: str | None = None
    tier: str | None = None


def listing(items: list[Json], page: Page, key: str = "id") -> Json:
    """One page; `items` holds one more than the limit when there is a next one."""
    shown = items[: page.limit]
    more = len(items) > page.limit
    return {"items": shown, "next": str(shown[-1][key]) if more else None}


class Store:
    def __init__(self, engine: Engine, outlook: Callable[[], Outlook]) -> None:
        self._outlook = outlook
        # A read is one statement; a transaction around it would be two round trips more.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    # -- jobs ------------------------------------------------------------------------------------

    def find(self, caller: Caller, name: str) -> Job:
        """The job of that id or name, among those the caller may see.

        Of several of one name it is the one that has not ended, or the last that was submitted.
        Raises NotFound, and Conflict when several have not ended.
        """
        with self._engine.connect() as db:
            found = read_jobs(
                db,
                _jobs()
                .where(*_called(caller, name))
                .order_by(t.job.c.id.desc())
                .limit(_NAMESAKES_MOST),
            )
        return found[self._which(caller, name, [(job.id, job.state) for job in found])]

    def standing(self, caller: Caller, name: str) -> tuple[JobId, str, JobState]:
        """Of the job that `find` would find: id, project and state, and nothing else is read."""
        query = select(t.job.c.id, t.job_state.c.state, t.job.c.project)
        query = query.join(t.job_state, t.job_state.c.id == t.job.c.id)
        with self._engine.connect() as db:
            query = query.where(*_called(caller, name)).order_by(t.job.c.id.desc())
            rows = db.execute(query.limit(_NAMESAKES_MOST))
            found = [(JobId(i), JobState(state), str(project)) for i, state, project in rows]
        id_, state, project = found[self._which(caller, name, [(i, s) for i, s, _ in found])]
        return id_, project, state

    def _which(self, caller: Caller, name: str, found: Sequence[tuple[str, JobState]]) -> int:
        """The place in `found`, newest first. Raises NotFound, Conflict."""
        for at, (id_, _) in enumerate(found):
            if id_ == name:
                return at
        live = [at for at, (_, state) in enumerate(found) if state not in TERMINAL]
        if len(live) > 1:
            ids = [found[at][0] for at in live]
            raise Conflict(f"{len(live)} jobs are called {name}; say which by its id", jobs=ids)
        if not found:
            raise NotFound(f"there is no job {name!r}", near=self._near(caller, name))
        return live[0] if live else 0

    def _near(self, caller: Caller, name: str) -> list[str]:
        query = select(t.job.c.name).order_by(t.job.c.id.desc()).limit(_NAMESAKES_MOST)
        if caller.project is not None:
            query = query.where(t.job.c.project == caller.project)
        with self._engine.connect() as db:
            names = sorted({str(n) for (n,) in db.execute(query)})
        return get_close_matches(name, names, n=3)

    def view(self, job: Job) -> Json:
        return self.shown([job])[0]

    def shown(self, jobs: Sequence[Job]) -> list[Json]:
        """Jobs that are in hand; only the nodes that they are on are read."""
        ids = sorted({s.node for job in jobs for s in job.placement})
        nodes: dict[NodeId, Node] = {}
        if ids:
            with self._engine.connect() as db:
                held = load_nodes(db, select(t.node).where(t.node.c.id.in_(ids)))
            nodes = {node.id: node for node in held}
        outlook = self._outlook()
        return [job_view(job, spec_to_json(job.spec), nodes, outlook) for job in jobs]

    def views(self, ids: Sequence[JobId]) -> list[Json]:
        """Of every one of `ids`, in their order."""
        with self._engine.connect() as db:
            found = {job.id: job for job in read_jobs(db, _jobs().where(among(t.job.c.id, ids)))}
        return self.shown([found[i] for i in ids])

    def jobs(self, caller: Caller, wanted: Filter, page: Page) -> Json:
        """Newest first."""
        query = _jobs().where(*_matching(caller, wanted))
        if page.cursor is not None:
            query = query.where(t.job.c.id < page.cursor)
        with self._engine.connect() as db:
            found = read_jobs(db, query.order_by(t.job.c.id.desc()).limit(page.limit + 1))
        return listing(self.shown(found), page)

    # -- history ---------------------------------------------------------------------------------

    def events(self, job: Job, page: Page) -> Json:
        """Oldest first; the cursor is the number of the last one seen."""
        query = select(t.event).where(t.event.c.job == job.id, t.event.c.seq > page.number())
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(t.event.c.seq).limit(page.limit + 1)).mappings()
            return listing([_event(row, row["seq"]) for row in rows], page, "seq")

    def all_events(self, caller: Caller, page: Page, until_s: float | None = None) -> Json:
        """Of all jobs, oldest first. Numbers are given before they are committed: who follows must
        leave out what is younger than a transaction may take (`until_s`), or misses some."""
        query = select(t.event).where(t.event.c.id > page.number())
        if until_s is not None:
            query = query.where(t.event.c.at_s <= until_s)
        if caller.project is not None:
            query = query.join(t.job, t.job.c.id == t.event.c.job)
            query = query.where(t.job.c.project == caller.project)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(t.event.c.id).limit(page.limit + 1)).mappings()
            return listing([_event(row, row["id"]) for row in rows], page, "seq")

    def incarnations(self, job: Job, page: Page) -> Json:
        row = t.incarnation
        query = select(row).where(row.c.job == job.id, row.c.incarnation > page.number())
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(row.c.incarnation).limit(page.limit + 1)).mappings()
            found = [
                {
                    **{name: value for name, value in r.items() if name != "job"},
                    "seconds": {k: v for k, v in r["seconds"].items() if k != "cut"},
                }
                for r in rows
            ]
        return listing(found, page, "incarnation")

    def departures(self, scope: Scope, jobs: Sequence[str], since_s: float) -> dict[str, float]:
        """When the last life of each of these jobs ended that was there, of those that ended since
        then."""
        row = t.incarnation.c
        there = {
            ScopeKind.REGION: row.region == scope.id,
            ScopeKind.CLUSTER: row.cluster == scope.id,
            ScopeKind.NODE: row.nodes.contains([scope.id]),
        }[scope.kind]
        query = select(row.job, func.max(row.ended_at_s)).group_by(row.job)
        query = query.where(among(row.job, jobs), row.ended_at_s >= since_s, there)
        with self._engine.connect() as db:
            return {job: float(at_s) for job, at_s in db.execute(query)}

    def checkpoints(self, job: Job, limit: int) -> Json:
        """Those that count, newest first: there are only as many as are kept."""
        row = t.checkpoint
        query = select(row).where(row.c.job == job.id, row.c.counts)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(row.c.cut.desc()).limit(limit)).mappings()
            return {
                "items": [
                    {
                        **{k: v for k, v in r.items() if k != "job"},
                        "engine": r["shards"][0].get("engine", "transparent"),
                    }
                    for r in rows
                ],
                "next": None,
            }

    # -- places ----------------------------------------------------------------------------------

    def fleet(self) -> list[Node]:
        with self._engine.connect() as db:
            return load_nodes(db, select(t.node).order_by(t.node.c.id))

    def nodes(self, caller: Caller, page: Page) -> Json:
        query = select(t.node).where(t.node.c.id > (page.cursor or ""))
        with self._engine.connect() as db:
            found = load_nodes(db, query.order_by(t.node.c.id).limit(page.limit + 1))
            return listing(_node_views(db, found, caller), page)

    def node(self, caller: Caller, node: str) -> Json:
        """Raises NotFound."""
        with self._engine.connect() as db:
            found = load_nodes(db, select(t.node).where(t.node.c.id == node))
            if found:
                return _node_views(db, found, caller)[0]
        near = get_close_matches(node, [n.id for n in self.fleet()], n=3)
        raise NotFound(f"there is no node {node!r}", near=near)

    def scope(self, text: str) -> Scope:
        """`region/us-east`, or a bare name that only one place has. Raises NotFound, Conflict."""
        known = _places(self.fleet())
        kind, slash, name = text.partition("/")
        found = [s for s in known if (f"{s.kind}/{s.id}" == text if slash else s.id == text)]
        if len(found) == 1:
            return found[0]
        if found:
            named = [f"{s.kind}/{s.id}" for s in found]
            raise Conflict(f"{text} is more than one place; say which", near=named)
        names = {s.id: f"{s.kind}/{s.id}" for s in known}
        near = get_close_matches(name if slash else kind, sorted(names), n=3, cutoff=0.4)
        raise NotFound(f"there is no place {text!r}", near=[names[n] for n in near])

    # -- agents ----------------------------------------------------------------------------------

    def address(self, node: str) -> str:
        """Where the node's agent listens for its peers. Raises NotFound."""
        with self._engine.connect() as db:
            found = db.execute(select(t.node.c.address).where(t.node.c.id == node)).scalar()
        if not found:
            raise NotFound(f"node {node!r} has no address", node=node)
        return str(found)

    def neighbours(self, node: NodeId, peer: str) -> bool:
        """Do both nodes hold shards of one job?"""
        ours = select(t.shard.c.job).where(t.shard.c.node == node)
        both = select(func.count()).where(t.shard.c.node == peer, t.shard.c.job.in_(ours))
        with self._engine.connect() as db:
            return bool(db.execute(both).scalar())


def _jobs() -> Select[str, str]:
    query = select(*JOB)
    return query.join(t.job_state, t.job_state.c.id == t.job.c.id)


def _called(caller: Caller, name: str) -> list[ColumnElement[bool]]:
    """Those that the caller may see and may mean."""
    mine: list[ColumnElement[bool]] = [(t.job.c.id == name) | (t.job.c.name == name)]
    if caller.project is not None:
        mine.append(t.job.c.project == caller.project)
    return mine


def _matching(caller: Caller, wanted: Filter) -> list[ColumnElement[bool]]:
    """Raises InvalidSpec when the filter asks for what does not exist."""
    found: list[ColumnElement[bool]] = []
    if caller.project is not None:
        found.append(t.job.c.project == caller.project)
    if wanted.project is not None:
        found.append(t.job.c.project == wanted.project)
    if wanted.state is not None:
        states = [_one_of(s, [str(x) for x in JobState], "state") for s in wanted.state.split(",")]
        found.append(t.job_state.c.state.in_(states))
    if wanted.tier is not None:
        tier = _one_of(wanted.tier, [x.name.lower() for x in Tier], "tier")
        found.append(t.job.c.tier == int(Tier[tier.upper()]))
    return found


def _one_of(text: str, known: Sequence[str], what: str) -> str:
    if text not in known:
        raise InvalidSpec(f"there is no {what} {text!r}; there are: {', '.join(known)}")
    return text


def _event(row: Any, seq: int) -> Json:
    return {
        "seq": seq,
        "job": row["job"],
        "at_s": row["at_s"],
        "event": row["event"],
        "from": row["before"] or None,
        "to": row["after"] or None,
        "reason": row["reason"],
        "incarnation": row["incarnation"],
        "node": row["node"],
        "facts": row["facts"],
    }


def _node_views(db: Connection, nodes: Sequence[Node], caller: Caller) -> list[Json]:
    """With the jobs on them, as far as the caller may see them."""
    ids = [n.id for n in nodes]
    jobs: dict[str, list[str]] = {i: [] for i in ids}
    query = select(t.shard.c.node, t.shard.c.job).where(t.shard.c.node.in_(ids))
    if caller.project is not None:
        query = query.join(t.job, t.job.c.id == t.shard.c.job)
        query = query.where(t.job.c.project == caller.project)
    for node, job in db.execute(query):
        jobs[node].append(job)
    return [node_view(n, jobs[n.id]) for n in nodes]


def _places(nodes: Sequence[Node]) -> list[Scope]:
    found = {Scope(ScopeKind.NODE, n.id) for n in nodes}
    found |= {Scope(ScopeKind.CLUSTER, n.cluster) for n in nodes}
    found |= {Scope(ScopeKind.REGION, n.region) for n in nodes}
    return sorted(found)
