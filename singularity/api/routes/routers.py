"""/v1/routers: what routers go by, and what they tell of requests. For tokens of that role."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response
from starlette.concurrency import run_in_threadpool

from singularity.api.services import DataPath, Serving
from singularity.primitives.routing import LOOK_S, Loads, Table

router = APIRouter(prefix="/v1/routers", tags=["routers"])

_GLANCE_S: Final = 0.1  # between two looks while a router waits
Region = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,63}$")]


@router.get("/{region}/table")
async def table(
    region: Region,  # noqa: ARG001  one table for all: requests may spill over to any region
    _: DataPath,
    serving: Serving,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Table:
    """As soon as its version is another than `after`, lower where the database was restored; after
    ten seconds as it is."""
    for _look in range(round(LOOK_S / _GLANCE_S)):
        found = await run_in_threadpool(serving.offered.table)
        if found.version != after or serving.stop.is_set():
            return found
        await asyncio.sleep(_GLANCE_S)
    return found


@router.post("/{region}/loads", status_code=204)
def loads(region: Region, body: Loads, _: DataPath, serving: Serving) -> Response:
    """What one router saw since its last post."""
    now_s = serving.clock.now_s()
    serving.ledger.hear_router(region, body, now_s)
    if any(note.queued or note.shed for note in body.notes):
        serving.waker.wake()  # somebody waits; else the scheduler looks soon enough by itself
    return Response(status_code=204)
