"""Where the time of a replayed load went: of the devices, by the second; and of a job, from its
start until its devices are free again. All of it as the plane wrote it.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

_STEP_S: Final = 5.0
# What each life held, cut into steps, and what began in each of them.
_BY_STEP: Final = """
WITH step AS (SELECT generate_series(0, ceil(%(took)s / %(step)s)::int - 1) AS n),
life AS (SELECT i.devices, i.placed_at_s - %(began)s AS a, i.ended_at_s - %(began)s AS b
         FROM incarnation i WHERE i.ended_at_s IS NOT NULL)
SELECT n, sum(devices * greatest(0, least(b, (n + 1) * %(step)s) - greatest(a, n * %(step)s))),
       count(*) FILTER (WHERE a >= n * %(step)s AND a < (n + 1) * %(step)s),
       count(DISTINCT a) FILTER (WHERE a >= n * %(step)s AND a < (n + 1) * %(step)s),
       (SELECT count(*) FROM job WHERE submitted_at_s - %(began)s < (n + 1) * %(step)s)
         - count(*) FILTER (WHERE a < (n + 1) * %(step)s)
FROM step CROSS JOIN life GROUP BY n ORDER BY n"""
_LIVES: Final = """
SELECT split_part(job.name, '-', 1), count(*),
       percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY i.running_at_s - i.placed_at_s),
       percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY i.ended_at_s - i.running_at_s)
FROM incarnation i JOIN job ON job.id = i.job
WHERE i.running_at_s IS NOT NULL AND i.ended_at_s IS NOT NULL GROUP BY 1 ORDER BY 1"""


def tell_time(db: psycopg.Connection[Any], began_s: float, took_s: float, devices: int) -> None:
    """Devices held and jobs started in each few seconds; and how long each part of a life took."""
    print("seconds   held   starts/s   rounds/s that start   waiting at its end")
    given = {"began": began_s, "took": took_s, "step": _STEP_S}
    for n, held_s, starts, rounds, waiting in db.execute(_BY_STEP, given).fetchall():
        most_s = min(_STEP_S, took_s - n * _STEP_S)
        print(
            f"{n * _STEP_S:5.0f}   {float(held_s or 0.0) / most_s / devices:6.1%}"
            f"   {starts / most_s:8.0f}   {rounds / most_s:8.1f}   {waiting:10}"
        )
    print("class      placed -> said to run: p50, p90   -> said to have ended: p50, p90   (s)")
    for kind, count, run, end in db.execute(_LIVES).fetchall():
        print(f"{kind:<10} {run[0]:20.3f} {run[1]:8.3f} {end[0]:20.3f} {end[1]:8.3f}   of {count}")
