"""The load generator: comes when it says, and hides nothing of what a request waited for."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load import Load, arrivals, parse_curve, rate_at

SERVICE_S = 0.02


@given(st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_arrivals_follow_the_curve_and_their_seed(seed: int) -> None:
    curve = parse_curve("0:10,100:10,101:100,201:100,202:0,300:0")
    found = list(arrivals(curve, seed))
    assert found == sorted(found) == list(arrivals(curve, seed))
    inside = Counter(int(at_s // 101) for at_s in found)
    assert abs(inside[0] - 1055) < 6 * 1055**0.5 and abs(inside[1] - 10050) < 6 * 10050**0.5


def test_a_rate_lies_between_its_points() -> None:
    curve = parse_curve("0:4,10:8")
    assert [rate_at(curve, at_s) for at_s in (0, 5, 10, 11)] == [4, 6, 8, 0]


def test_told_to_end_it_sends_no_more_and_waits_for_the_answers() -> None:
    async def ask() -> tuple[int, list[int]]:
        asked, gate = list[Load](), asyncio.Event()

        async def answer(_: web.BaseRequest) -> web.Response:
            asked.append(load)
            if len(asked) == 3:
                load.end()
                asyncio.get_running_loop().call_soon(gate.set)
            await gate.wait()
            return web.Response()

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        load = Load(f"http://127.0.0.1:{runner.addresses[0][1]}/", "GET", [])
        await load.run([0.0, 0.0, 0.0, 3600.0])
        await runner.cleanup()
        return len(asked), [a.status for a in load.answers]

    assert asyncio.run(ask()) == (3, [200] * 3)


def test_what_a_request_waits_for_others_is_counted() -> None:
    """A server that does one after the other, asked for ten at once: the last one waits for all."""

    async def ask() -> list[float]:
        turn = asyncio.Lock()

        async def answer(_: web.BaseRequest) -> web.Response:
            async with turn:
                await asyncio.sleep(SERVICE_S)
            return web.Response()

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        load = Load(f"http://127.0.0.1:{runner.addresses[0][1]}/", "GET", [])
        await load.run([0.0] * 10)
        await runner.cleanup()
        assert {a.status for a in load.answers} == {200}
        return sorted(a.latency_s for a in load.answers)

    latencies = asyncio.run(ask())
    assert all(found >= (n + 1) * SERVICE_S * 0.99 for n, found in enumerate(latencies))
