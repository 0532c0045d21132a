"""Jobs that ended long ago go, with all that was kept of them: else a plane that runs for months
slows down by what nobody looks at.

A job that a living one still names stays: as one of those it came after, or as what it verifies.
So does one of which there is a checkpoint: the store gives those up first (tidy.py).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, delete, func, select, text, update

from singularity.primitives.model import JobId

from . import service_tables as st
from . import tables as t
from .bulk import among
from .intake import oldest_id

_MOST: Final = 500  # in one transaction
_ROUTER_KEPT_S: Final = 86400.0  # longer than anything is counted of what it said
_ENDED: Final = "('succeeded', 'failed', 'cancelled')"
# Ids are in the order of submission, so those that are too young are not looked at.
_OUTLIVED: Final = text(f"""
WITH named AS (
  SELECT jsonb_array_elements_text(job.spec -> 'after') AS id
  FROM job_state JOIN job USING (id) WHERE state NOT IN {_ENDED} AND job.spec ? 'after'
  UNION ALL
  SELECT job.spec -> 'aside' ->> 'of'
  FROM job_state JOIN job USING (id) WHERE state NOT IN {_ENDED} AND job.spec ? 'aside')
SELECT id FROM job_state
WHERE id < :younger AND state IN {_ENDED} AND (body ->> 'since_s')::float8 < :before_s
  AND jsonb_array_length(coalesce(body -> 'checkpoints', '[]')) = 0
  AND id NOT IN (SELECT id FROM named)
ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
""")
_OF_A_JOB: Final = (
    *(t.event.c.job, t.incarnation.c.job, t.checkpoint.c.job, t.estimate.c.job, st.loan.c.job),
    st.lender.c.job,
    *(t.shard.c.job, t.job_state.c.id, t.job.c.id),
)


def forget(
    engine: Engine,
    volume: Path,
    before_s: float,
    guard: Callable[[Connection], None] = lambda _: None,
) -> int:
    """Forget jobs that ended before then, some at a time, with what they printed; how many: as long
    as that is not 0, there may be more. Raises OSError where files cannot be removed, and what
    `guard` raises; then the rows stay as well."""
    if not math.isfinite(before_s):
        return 0
    with engine.begin() as db:
        guard(db)
        given = {"younger": oldest_id(before_s), "before_s": before_s, "most": _MOST}
        gone = [JobId(id_) for (id_,) in db.execute(_OUTLIVED, given)]
        for job in gone:  # files first: what is done twice does no harm
            _remove(volume / "jobs" / job)
        if gone:
            _remember(db, gone)
            for column in _OF_A_JOB:
                db.execute(delete(column.table).where(among(column, gone)))
            of_jobs = (t.change.c.what == "job_state") & among(t.change.c.id, gone)
            db.execute(delete(t.change).where(of_jobs))
    return len(gone)


def forget_strangers(
    engine: Engine, now_s: float, kept_s: float, guard: Callable[[Connection], None]
) -> None:
    """Tokens that have been worth nothing for `kept_s`, of which each node that joins again leaves
    one; routers that were not heard for a day, with what they said: those that live forget their
    own."""
    worthless = func.least(t.token.c.revoked_at_s, t.token.c.expires_at_s) < now_s - kept_s
    silent = select(st.router.c.id).where(st.router.c.heard_s < now_s - _ROUTER_KEPT_S)
    with engine.begin() as db:
        guard(db)
        if math.isfinite(kept_s):
            db.execute(delete(t.token).where(worthless))
        if gone := db.execute(silent.with_for_update(skip_locked=True)).scalars().all():
            for column in (st.service_load.c.router, st.service_minute.c.router, st.router.c.id):
                db.execute(delete(column.table).where(among(column, gone)))


def _remember(db: Connection, gone: Collection[JobId]) -> None:
    """What is a sum over all there ever were goes on."""
    life = t.incarnation.c
    lost = select(func.sum(life.lost_s * life.devices)).where(among(life.job, gone))
    if lost_device_s := db.execute(lost).scalar():
        more = t.forgotten.c.lost_device_s + lost_device_s
        db.execute(update(t.forgotten).values(lost_device_s=more))


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
