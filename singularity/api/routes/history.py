"""/v1/events, and what one job did: events, logs, whether its checkpoints are good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from singularity.api import logs, nouns, stacks, streams
from singularity.api.auth import Caller
from singularity.api.nouns import Stacks
from singularity.api.services import Heavy, Paged, Services, Serving, Viewer
from singularity.api.store import Page
from singularity.api.views import Json
from singularity.primitives import cuts
from singularity.primitives.errors import NotFound
from singularity.primitives.model import TERMINAL, Job
from singularity.store.vault import Vault
from singularity.store.verify import verify

router = APIRouter(prefix="/v1", tags=["history"])

_EVENTS: Final = streams.told(nouns.json_of(nouns.page_of(nouns.EVENT)))
_BATCH: Final = 500
_YOUNG_S: Final = 0.5  # longer than a transaction that writes events takes


@dataclass(frozen=True, slots=True)
class Follow:
    """The client wants what comes as well: after `last`, as `events` if it said so."""

    last: str | None
    events: bool


def following(
    follow: bool = False,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
    accept: Annotated[str, Header()] = "",
) -> Follow | None:
    return Follow(last_event_id, streams.EVENTS in accept) if follow else None


Following = Annotated[Follow | None, Depends(following)]


@router.get("/events", responses=_EVENTS)
def all_events(
    who: Viewer,
    serving: Serving,
    page: Paged,
    follow: Following,
) -> Response:
    if follow is None:
        return JSONResponse(serving.store.all_events(who, page))

    def more(last: int) -> list[Json]:
        until_s = serving.clock.now_s() - _YOUNG_S
        found: list[Json] = serving.store.all_events(who, Page(_BATCH, str(last)), until_s)["items"]
        return found

    return _stream(streams.follow_events(more, lambda: False, _first(page, follow), serving.stop))


@router.get("/jobs/{job}/events", responses=_EVENTS)
def events(
    job: str,
    who: Viewer,
    serving: Serving,
    page: Paged,
    follow: Following,
) -> Response:
    found = serving.store.find(who, job)
    if follow is None:
        return JSONResponse(serving.store.events(found, page))

    def more(last: int) -> list[Json]:
        items: list[Json] = serving.store.events(found, Page(_BATCH, str(last)))["items"]
        return items

    def ended() -> bool:
        return _ended(serving, who, found)

    return _stream(streams.follow_events(more, ended, _first(page, follow), serving.stop))


@router.get("/jobs/{job}/logs", response_class=PlainTextResponse, responses=streams.told({200: {}}))
def log(
    job: str,
    who: Viewer,
    serving: Serving,
    follow: Following,
    rank: Annotated[int, Query(ge=0)] = 0,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
) -> Response:
    """What a rank printed; with `follow` also what it will print, until the job ends."""
    found = serving.store.find(who, job)
    if rank >= found.spec.ranks:
        raise NotFound(f"{found.spec.name} has ranks 0 to {found.spec.ranks - 1}", rank=rank)
    path = logs.log_path(serving.settings.volume, found.id, rank)
    offset = logs.first_offset(path, tail)
    if follow is None:
        return StreamingResponse(streams.plain(path, offset), media_type="text/plain")
    if follow.last is not None:
        offset = Page(cursor=follow.last).number()

    def ended() -> bool:
        return _ended(serving, who, found)

    pieces = streams.follow_log(path, offset, ended, serving.stop)
    if follow.events:
        return _stream(streams.as_sse(pieces))
    return StreamingResponse(streams.as_text(pieces), media_type="text/plain")


@router.get("/jobs/{job}/stacks")
def job_stacks(job: str, who: Viewer, serving: Serving) -> Stacks:
    """Which stacks are kept of ranks that hung."""
    found = serving.store.find(who, job)
    return {"items": [s.view() for s in stacks.stacks(serving.settings.volume, found.id)]}


@router.get("/jobs/{job}/stacks/text", response_class=PlainTextResponse)
def stacks_text(
    job: str,
    who: Viewer,
    serving: Serving,
    incarnation: Annotated[int | None, Query(ge=1)] = None,
    rank: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """Where the ranks stood: of the newest life that hung, or of the one that is named."""
    found = serving.store.find(who, job)
    pieces = stacks.text(serving.settings.volume, found.id, incarnation, rank)
    return StreamingResponse(pieces, media_type="text/plain")


@router.get("/jobs/{job}/checkpoints/{checkpoint}/verify")
def verify_checkpoint(job: str, checkpoint: str, who: Viewer, serving: Serving, _: Heavy) -> Json:
    """Read every chunk of it and check its hash."""
    found = serving.store.find(who, job)
    known = cuts.named(found, checkpoint)
    papers = serving.key.papers(found.spec.project, found.id, known.incarnation)
    return verify(serving.images, Vault(papers), found.id, known).view()


def _ended(serving: Services, who: Caller, job: Job) -> bool:
    return serving.store.find(who, job.id).state in TERMINAL


def _first(page: Page, follow: Follow) -> int:
    return Page(cursor=follow.last or page.cursor).number()


def _stream(content: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(content, media_type=streams.EVENTS, headers=headers)
