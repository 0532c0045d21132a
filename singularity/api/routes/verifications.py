"""/v1/jobs/{job}/verifications: is a job that comes back from a checkpoint the same job?"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from pydantic import Field

from singularity.api.documents import Document
from singularity.api.intake import check_key, digest, new_ids
from singularity.api.nouns import AJob
from singularity.api.rows import Submission
from singularity.api.services import Serving, Submitter
from singularity.primitives import cuts
from singularity.primitives.asides import STEPS, shadow
from singularity.primitives.errors import IllegalTransition
from singularity.primitives.model import TERMINAL, Aside, Job

router = APIRouter(prefix="/v1", tags=["jobs"])


class Verification(Document):
    """Of `checkpoint`, as <incarnation>-<cut>; of one that is taken for it, without."""

    checkpoint: str | None = Field(default=None, max_length=20)
    steps: int = Field(default=STEPS, ge=1, le=10_000)


@router.post("/jobs/{job}/verifications", status_code=202)
def verify(
    job: str,
    body: Verification,
    who: Submitter,
    serving: Serving,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> AJob:
    """Restore it beside the job, on idle devices, let it run and compare what both write. The
    answer is a job of kind verify; its certificate, and then the job's own, tell what came of it.
    The same key and body again give the same job again."""
    key = check_key(idempotency_key)
    found, now_s = serving.store.find(who, job), serving.clock.now_s()
    (id_,) = new_ids(1, now_s)
    made = shadow(found, _aside(found, body), id_, now_s)
    serving.gauge.must_fit(made)
    mark = None if key is None else digest({"verifies": found.id, **body.model_dump()})
    ids = serving.intake.submit([(made, Submission(key, mark))])
    return serving.store.views(ids)[0]


def _aside(job: Job, asked: Verification) -> Aside:
    """Raises NotFound, IllegalTransition."""
    if job.spec.aside is not None:
        raise IllegalTransition(f"{job.spec.name} verifies another job", job=job.id)
    if asked.checkpoint is None:
        if job.state in TERMINAL:
            raise IllegalTransition(
                f"{job.spec.name} has {job.state}: no checkpoint of it can be taken; name one",
                job=job.id,
                state=job.state,
            )
        return Aside(job.id, asked.steps)
    found = cuts.named(job, asked.checkpoint)
    return Aside(job.id, asked.steps, found.incarnation, found.cut)
