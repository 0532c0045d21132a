"""/v1/projects and /v1/usage: what projects are guaranteed, may borrow and lend, and have used."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from singularity.api.auth import Caller
from singularity.api.documents import Document
from singularity.api.nouns import AProject, Projects, Usages
from singularity.api.schemas import Name
from singularity.api.services import Operator, Serving, Viewer
from singularity.api.views import Json
from singularity.primitives.errors import NotFound
from singularity.primitives.projects import Allotment, Project
from singularity.scheduler.quota import Quota

router = APIRouter(prefix="/v1", tags=["projects"])
Kind = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class AllotmentDocument(Document):
    """Of one kind of device; `borrow` and `lend` are without limit unless said."""

    guaranteed: int = 0
    borrow: int | None = None
    lend: int | None = None


class ProjectDocument(Document):
    """All that is said of a project. Kinds that are left out have no limit."""

    parent: Name | None = None
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    devices: dict[Kind, AllotmentDocument] = Field(default_factory=dict, max_length=100)


@router.get("/projects")
def projects(who: Viewer, serving: Serving) -> Projects:
    """Those that have been set or had a job, as far as the caller may see them."""
    known = serving.ledger.projects()
    quota = Quota(known)
    return {"items": [_view(quota, p) for p in known if who.sees(p.id)], "next": None}


@router.get("/projects/{project}")
def one_project(project: Name, who: Viewer, serving: Serving) -> AProject:
    known = serving.ledger.projects()
    return _view(Quota(known), _found(known, project, who))


@router.put("/projects/{project}")
def set_project(project: Name, body: ProjectDocument, _: Operator, serving: Serving) -> AProject:
    """Make it so; new projects are made. What is running runs on, also above a new limit."""
    said = tuple(Allotment(kind, **a.model_dump()) for kind, a in body.devices.items())
    new = Project(project, body.parent or "", body.weight, said)
    made = serving.ledger.set_project(new, serving.clock.now_s())
    serving.waker.wake()
    return _view(Quota(serving.ledger.projects()), made)


@router.get("/usage")
def usage(who: Viewer, serving: Serving) -> Usages:
    """What projects hold and have used; whoever used most by weight comes last."""
    now_s, known = serving.clock.now_s(), serving.ledger.projects()
    quota = Quota(known)
    total_s = sum(p.usage.until(now_s) for p in known)
    items = [
        {
            "project": p.id,
            "weight": p.weight,
            "devices": p.usage.devices,
            "borrowed": sum(a["borrowed"] for a in _devices(quota, p).values()),
            "device_h": p.usage.until(now_s) / 3600.0,
            "share": p.usage.until(now_s) / total_s if total_s else 0.0,
        }
        for p in sorted(known, key=lambda p: (p.share(now_s), p.id))
        if who.sees(p.id)
    ]
    return {"items": items, "next": None}


def _found(known: list[Project], project: str, who: Caller) -> Project:
    mine = {p.id: p for p in known if who.sees(p.id)}
    if project not in mine:
        near = get_close_matches(project, sorted(mine), n=3)
        raise NotFound(f"there is no project {project!r}", near=near)
    return mine[project]


def _view(quota: Quota, project: Project) -> Json:
    return {
        "id": project.id,
        "parent": project.parent,
        "weight": project.weight,
        "devices": _devices(quota, project),
    }


def _devices(quota: Quota, project: Project) -> dict[str, dict[str, Any]]:
    """By kind what is said of it, and what it and its parts hold."""
    found = {}
    for said in project.allotments:
        used = quota.use[project.id, said.kind]
        borrowed = max(0, used - said.guaranteed)
        numbers = {"guaranteed": said.guaranteed, "borrow": said.borrow, "lend": said.lend}
        found[said.kind] = {**numbers, "used": used, "borrowed": borrowed}
    return found
