"""Projects in the database: what they are part of, what they are guaranteed, what they used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.projects import Allotment, Project, Usage, admitted

from . import tables as t
from .bulk import Writes, among

_NEW = {"parent": "", "weight": 1.0, "held": {}, "device_s": 0.0, "at_s": 0.0}


class SqlProjects:
    """The part of the ledger that keeps them."""

    _engine: Engine

    def set_project(self, project: Project, now_s: float) -> Project:
        """See scheduler.ledger.Ledger. Who sets one waits for who sets another, for each is judged
        by all."""
        with self._engine.begin() as db:
            db.exec_driver_sql("LOCK TABLE allotment IN SHARE ROW EXCLUSIVE MODE")
            found = admitted(load_projects(db), project, _capacity(db))[project.id]
            open_projects(db, {found.id}, now_s)
            mine = t.project.c.id == found.id
            db.execute(update(t.project).where(mine).values(_place(found)))
            db.execute(delete(t.allotment).where(t.allotment.c.project == found.id))
            if rows := [_allotment_row(found.id, a) for a in found.allotments]:
                db.execute(insert(t.allotment), rows)
        return found

    def projects(self) -> list[Project]:
        with self._engine.connect() as db:
            return load_projects(db)


def open_projects(db: Connection, ids: Collection[str], now_s: float) -> None:
    """Make those that are new; they have no limit."""
    rows = [{"id": p, "created_at_s": now_s, **_NEW} for p in sorted(ids)]
    db.execute(upsert(t.project).on_conflict_do_nothing(), rows)


def load_projects(db: Connection) -> list[Project]:
    """All, by id."""
    said: defaultdict[str, list[Allotment]] = defaultdict(list)
    for row in db.execute(select(t.allotment).order_by(t.allotment.c.kind)).mappings():
        found = {name: row[name] for name in ("kind", "guaranteed", "borrow", "lend")}
        said[row["project"]].append(Allotment(**found))
    rows = db.execute(select(t.project)).mappings()
    return sorted((_project(row, said[row["id"]]) for row in rows), key=lambda p: p.id)


def lock_governed(db: Connection) -> list[Project]:
    """All, so that none comes to hold more meanwhile; none where nobody has a limit."""
    if not db.execute(select(t.allotment.c.kind).limit(1)).first():
        return []
    db.execute(_locked(t.project.c.id != ""))
    return load_projects(db)


def charge(
    db: Connection, writes: Writes, more: Mapping[tuple[str, str], int], now_s: float
) -> None:
    """From now on projects hold so many devices more, by project and kind. The clocks of two
    writers may differ, and none goes backwards."""
    named = sorted({project for project, _ in more})
    found = db.execute(_locked(among(t.project.c.id, named))).mappings().all()
    used = {row["id"]: _project(row, ()).usage for row in found}
    for (project, kind), devices in sorted(more.items()):
        used[project] = used[project].changed(kind, devices, now_s)
    writes.update(t.project, ("id",), [{"id": p, **_usage(used[p])} for p in named])


def _locked(which: ColumnElement[bool]) -> Select[Any]:
    """Projects are locked last of all rows, in the order of their ids; submits may go on."""
    query = select(t.project).where(which).order_by(t.project.c.id)
    return query.with_for_update(key_share=True)


def _capacity(db: Connection) -> dict[str, int]:
    """primitives.projects.capacity, of the rows of nodes."""
    node, found = t.node.c, dict[str, int]()
    for kind, devices in db.execute(select(node.device, node.devices).where(node.epoch > 0)):
        found[kind] = found.get(kind, 0) + devices
    return found


def _project(row: Mapping[Any, Any], said: Collection[Allotment]) -> Project:
    usage = Usage(tuple(sorted(row["held"].items())), row["device_s"], row["at_s"])
    return Project(row["id"], row["parent"], row["weight"], tuple(said), usage)


def _place(project: Project) -> dict[str, object]:
    return {"parent": project.parent, "weight": project.weight}


def _usage(usage: Usage) -> dict[str, object]:
    return {"held": dict(usage.held), "device_s": usage.device_s, "at_s": usage.at_s}


def _allotment_row(project: str, said: Allotment) -> dict[str, object]:
    numbers = {"guaranteed": said.guaranteed, "borrow": said.borrow, "lend": said.lend}
    return {"project": project, "kind": said.kind, **numbers}
