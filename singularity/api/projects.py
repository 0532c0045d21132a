"""Projects in the database: what they are part of, what they are guaranteed, what they used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from singularity.primitives.model import JobId
from singularity.primitives.projects import Allotment, Project, Usage, admitted

from . import tables as t
from .bulk import Question, Writes, array_of, ask

_ALL: Final = "SELECT id, parent, weight, held, device_s, at_s FROM project"
_SAID: Final = Question(
    "SELECT project, kind, guaranteed, borrow, lend FROM allotment ORDER BY kind"
)
PROJECTS: Final = (Question(_ALL), _SAID)
# Locked last of all rows, in the order of their ids; submits may go on.
_LOCKED: Final = f"{_ALL} WHERE {{which}} ORDER BY id FOR NO KEY UPDATE"
GOVERNED: Final = (Question(_LOCKED.format(which="EXISTS (SELECT FROM allotment)")), _SAID)
_OPENED: Final = """
INSERT INTO project (id, created_at_s, parent, weight, held, device_s, at_s)
SELECT new.id, %s, '', 1.0, '{}', 0.0, 0.0 FROM unnest(%s::text[]) AS new (id)
ON CONFLICT DO NOTHING"""


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


def opening(ids: Collection[str], now_s: float) -> Question:
    """Makes those that are new; they have no limit."""
    return Question(_OPENED, (now_s, array_of(ids)))


def open_projects(db: Connection, ids: Collection[str], now_s: float) -> None:
    """See `opening`."""
    ask(db, opening(ids, now_s))


def load_projects(db: Connection) -> list[Project]:
    """All, by id."""
    return projects_from(*ask(db, *PROJECTS))


def projects_from(
    rows: Iterable[tuple[Any, ...]], allotments: Iterable[tuple[Any, ...]]
) -> list[Project]:
    """What PROJECTS or GOVERNED answer, by id."""
    said: defaultdict[str, list[Allotment]] = defaultdict(list)
    for project, *numbers in allotments:
        said[project].append(Allotment(*numbers))
    found = (
        Project(name, parent, weight, tuple(said[name]), _usage_of(*used))
        for name, parent, weight, *used in rows
    )
    return sorted(found, key=lambda p: p.id)


def locked_projects(jobs: Collection[JobId]) -> Question:
    """Those of `jobs`, for `projects_from`: to be asked when jobs and nodes are locked."""
    which = "id IN (SELECT project FROM job WHERE id = ANY (%s::text[]))"
    return Question(_LOCKED.format(which=which), (array_of(jobs),))


def charge(
    db: Connection,
    writes: Writes,
    more: Mapping[tuple[str, str], int],
    now_s: float,
    governed: Mapping[str, Usage],
) -> None:
    """From now on projects hold so many devices more, by project and kind. The clocks of two
    writers may differ, and none goes backwards. `governed` are locked already."""
    named = sorted({project for project, _ in more})
    used = {project: governed[project] for project in named if project in governed}
    if missing := [project for project in named if project not in used]:
        mine = _LOCKED.format(which="id = ANY (%s::text[])")
        writes.settle()
        (rows,) = ask(db, Question(mine, (array_of(missing),)))
        used |= {name: _usage_of(*rest) for name, _, _, *rest in rows}
    for (project, kind), devices in sorted(more.items()):
        used[project] = used[project].changed(kind, devices, now_s)
    writes.update(t.project, ("id",), [{"id": p, **_usage(used[p])} for p in named])


def _capacity(db: Connection) -> dict[str, int]:
    """primitives.projects.capacity, of the rows of nodes."""
    node, found = t.node.c, dict[str, int]()
    for kind, devices in db.execute(select(node.device, node.devices).where(node.epoch > 0)):
        found[kind] = found.get(kind, 0) + devices
    return found


def _usage_of(held: Mapping[str, int], device_s: float, at_s: float) -> Usage:
    return Usage(tuple(sorted(held.items())), device_s, at_s)


def _place(project: Project) -> dict[str, object]:
    return {"parent": project.parent, "weight": project.weight}


def _usage(usage: Usage) -> dict[str, object]:
    return {"held": dict(usage.held), "device_s": usage.device_s, "at_s": usage.at_s}


def _allotment_row(project: str, said: Allotment) -> dict[str, object]:
    numbers = {"guaranteed": said.guaranteed, "borrow": said.borrow, "lend": said.lend}
    return {"project": project, "kind": said.kind, **numbers}
