"""Pages about jobs: which there are, and all that is known of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from singularity.api import logs
from singularity.api.routes import history
from singularity.api.routes import jobs as routes
from singularity.api.services import Heavy, Serving
from singularity.api.store import Page
from singularity.api.views import Json
from singularity.primitives.model import TERMINAL, JobState, Tier

from . import timeline
from .showing import Visitor, page

router = APIRouter(include_in_schema=False)

_PAGES_MOST: Final = 10  # of 1000, of what one job did
_TOLD: Final = 100  # events that are shown
_TAIL: Final = 200  # lines of a log to begin with
Word = Annotated[str, Query(max_length=200)]


@router.get("/jobs")
def jobs(
    request: Request,
    who: Visitor,
    serving: Serving,
    state: Word = "",
    project: Word = "",
    tier: Word = "",
    cursor: Word = "",
) -> Response:
    asked = {"state": state, "project": project, "tier": tier}
    wanted = {name: value or None for name, value in asked.items()}
    found = routes.jobs(who, serving, Page(50, cursor or None), **wanted)
    return page(
        request,
        "jobs",
        who,
        serving.clock.now_s(),
        found=found,
        asked=asked,
        cursor=cursor,
        states=[str(s) for s in JobState],
        tiers=[t.name.lower() for t in Tier],
    )


@router.get("/jobs/{job}")
def one_job(job: str, request: Request, who: Visitor, serving: Serving) -> Response:
    """Where it was, how far it is, what was kept of it, and what befell it."""
    found, now_s = routes.one_job(job, who, serving), serving.clock.now_s()
    id_ = found["id"]
    lives = _every(lambda p: routes.incarnations(id_, who, serving, p))
    told = _every(lambda p: serving.store.events(serving.store.find(who, id_), p))
    return page(
        request,
        "job",
        who,
        now_s,
        job=found,
        lives=list(reversed(lives)),
        chart=timeline.chart(lives, now_s),
        steps=timeline.steps(lives, told, found, now_s),
        lost_s=sum(life["lost_s"] or 0.0 for life in lives),
        checkpoints=routes.checkpoints(id_, who, serving, Page(50))["items"],
        events=list(reversed(told[-_TOLD:])),
        stacks=history.job_stacks(id_, who, serving)["items"],
        ended=found["state"] in {str(s) for s in TERMINAL},
    )


@router.get("/jobs/{job}/why")
def why(job: str, request: Request, who: Visitor, serving: Serving, heavy: Heavy) -> Response:
    found = routes.why(job, who, serving, heavy)
    here = f"/ui/jobs/{job}/why"
    return page(request, "why", who, serving.clock.now_s(), found=found, source=here)


@router.get("/jobs/{job}/log")
def log(
    job: str,
    who: Visitor,
    serving: Serving,
    rank: Annotated[int, Query(ge=0)] = 0,
    after: Annotated[str | None, Query(max_length=32)] = None,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> Response:
    """What a rank printed and will print, as events numbered by where to go on; 204, by which a
    browser asks no more, once all of it was told."""
    last = last_event_id or after
    found = serving.store.find(who, job)
    tail = _TAIL if last is None else None
    told = history.log(found.id, who, serving, history.Follow(last, events=True), rank, tail)
    path = logs.log_path(serving.settings.volume, found.id, rank)
    over = found.state in TERMINAL and Page(cursor=last).number() >= logs.first_offset(path, 0)
    return Response(status_code=204) if over else told


def _every(read: Callable[[Page], Json]) -> list[Json]:
    """All that a list holds, up to ten thousand."""
    found, cursor = list[Json](), None
    for _ in range(_PAGES_MOST):
        part = read(Page(1000, cursor))
        found += part["items"]
        if (cursor := part["next"]) is None:
            break
    return found
