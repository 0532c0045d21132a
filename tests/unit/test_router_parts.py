"""Names of services, headers that are passed on, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from singularity.primitives.routing import BOUNDS_S, NONE
from singularity.primitives.serving import ServiceId
from singularity.primitives.telemetry import Histogram, Metric, render
from singularity.router.addressing import candidates, introduce, passed_on
from singularity.router.pool import Why
from singularity.router.tally import Jumps, Tally

S = ServiceId("s")


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("s.p", "/x", [("p", "s", "/x")]),
        ("s.p:8480", "/", [("p", "s", "/")]),
        ("localhost:8480", "/p/s/x/y?z=/a/b", [("p", "s", "/x/y?z=/a/b")]),
        ("localhost", "/p/s", [("p", "s", "/")]),
        ("localhost", "/p/s?q", [("p", "s", "/?q")]),
        ("localhost", "/p//s", []),
        ("localhost", "/healthz", []),
        ("127.0.0.1:8480", "/p/s/x", [("p", "s", "/x")]),
        ("", "/p/s/%2e%2e/x", [("p", "s", "/%2e%2e/x")]),
    ],
)
def test_what_a_request_may_be_for(host: str, path: str, found: list[tuple[str, str, str]]) -> None:
    assert [(*t.name, t.path) for t in candidates(host, path)] == found


def test_only_what_is_meant_for_the_far_end_is_passed_on() -> None:
    came = CIMultiDictProxy(
        CIMultiDict(
            [
                ("Connection", "close, X-Hop"),
                ("X-Hop", "1"),
                ("Transfer-Encoding", "chunked"),
                ("Keep-Alive", "timeout=5"),
                ("Cookie", "a"),
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
            ]
        )
    )
    assert list(passed_on(came).items()) == [
        ("Cookie", "a"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]


def test_who_forwarded_it_before_us_stays_first() -> None:
    headers = CIMultiDict({"X-Forwarded-For": "1.1.1.1", "X-Forwarded-Host": "outer"})
    (target,) = candidates("h", "/p/s/x")
    introduce(headers, target, {"for": "2.2.2.2", "host": "h", "proto": "http", "id": "r"})
    assert headers["X-Forwarded-For"] == "1.1.1.1, 2.2.2.2"
    assert headers["X-Forwarded-Host"] == "outer" and headers["X-Request-Id"] == "r"


def test_the_mean_is_weighed_by_time_and_a_span_counts_once() -> None:
    tally = Tally(0.0)
    tally.level(4, 1.0)
    tally.level(0, 2.0)
    tally.of(1).arrivals += 3
    tally.of(1).finish(BOUNDS_S[2])
    tally.of(2).wait(1e9)
    tally.of(2).shed[Why.LATE] += 1
    tally.of(2).shed[Why.FULL] += 2
    first, second = tally.cut(S, 1, 7, 4.0)
    assert (first.revision, first.busy, first.queued, first.span_s) == (1, 1.0, 7, 4.0)
    assert (first.arrivals, first.done, first.latencies[2]) == (3, 1, 1)
    assert (second.revision, second.busy, second.shed, second.waits[-1]) == (2, 0.0, 3, 1)
    (quiet,) = tally.cut(S, 1, 0, 5.0)
    assert (quiet.busy, quiet.arrivals, quiet.waits) == (0.0, 0, NONE)
    assert [(n, c.arrivals, c.done) for n, c in tally.totals()] == [(1, 3, 1), (2, 0, 0)]


def jumps_of(counts: Sequence[int], cuts: Set[int] = frozenset()) -> float:
    """What a router tells in all of requests that came so by the second, posting in between."""
    jumps, told = Jumps(0.5), 0.0
    for second, count in enumerate(counts, start=1):
        for number in range(count):
            jumps.came(second + number / count)
        if second in cuts:
            told += jumps.cut(second + 0.999)
    return told + jumps.cut(len(counts) + 1.0)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=90),
    cuts=st.sets(st.integers(1, 90)),
)
def test_how_uneven_requests_come_is_told_of_every_second_once(
    counts: list[int], cuts: set[int]
) -> None:
    """Seconds without any count too, whenever it is asked."""
    wanted = sum((b - a) ** 2 for a, b in pairwise(counts)) / 2
    assert jumps_of(counts, cuts) == wanted


def test_independent_requests_have_a_spread_of_one_and_swarms_their_size() -> None:
    random = Random(1)
    single = [sum(random.random() < 0.02 for _ in range(400)) for _ in range(4000)]
    swarms = [12 * count for count in single]
    steady, rising = [8] * 4000, [second // 100 for second in range(4000)]
    assert abs(jumps_of(single) / sum(single) - 1.0) < 0.1
    assert abs(jumps_of(swarms) / sum(swarms) - 12.0) < 1.2
    assert jumps_of(steady) == 0.0
    assert jumps_of(rising) / sum(rising) < 0.01, "a load that rises is no swarm"


def test_numbers_are_exact_and_buckets_add_up() -> None:
    text = render(
        [
            Metric("seen_total", "counter", "Seen.", (({"a": 'x"'}, 12345678.0),)),
            Histogram("took_seconds", "Took.", (0.1, 1.0), (({}, (3, 0, 2), 4.5),)),
        ]
    )
    assert text.splitlines() == [
        "# HELP singularity_seen_total Seen.",
        "# TYPE singularity_seen_total counter",
        'singularity_seen_total{a="x\\""} 12345678.0',
        "# HELP singularity_took_seconds Took.",
        "# TYPE singularity_took_seconds histogram",
        'singularity_took_seconds_bucket{le="0.1"} 3',
        'singularity_took_seconds_bucket{le="1"} 3',
        'singularity_took_seconds_bucket{le="+Inf"} 5',
        "singularity_took_seconds_sum 4.5",
        "singularity_took_seconds_count 5",
    ]
