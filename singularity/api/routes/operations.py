"""/v1/operations: what operators did, and taking it back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from singularity.api import operations as kept
from singularity.api.nouns import AnOperation, Operations
from singularity.api.services import Operator, Overseer, Paged, Serving
from singularity.api.store import listing
from singularity.primitives.operations import By

router = APIRouter(prefix="/v1/operations", tags=["operations"])


@router.get("")
def operations(
    _: Overseer,
    serving: Serving,
    page: Paged,
    target: Annotated[str | None, Query(max_length=200)] = None,
) -> Operations:
    """Newest first; of one `target` ("node/n0") if that is said."""
    before = page.number() if page.cursor else None
    with serving.engine.connect() as db:
        return listing(kept.operations(db, before, page.limit + 1, target), page)


@router.get("/{number}")
def operation(number: int, _: Overseer, serving: Serving) -> AnOperation:
    with serving.engine.connect() as db:
        return kept.operation(db, number)


@router.post("/{number}/undo")
def undo(number: int, who: Operator, serving: Serving) -> AnOperation:
    """Make it as it was before; refused where there is no way back, or something came after."""
    serving.ledger.undo(number, By(who.token, f"undoes {number}"), serving.clock.now_s())
    serving.waker.wake()
    return operation(number, who, serving)
