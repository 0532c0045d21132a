"""Answers that go on: server-sent events, and logs as they are written.

Each looks again every so often in a worker thread; a stream ends with what it tells of, with its
client, or with the server.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from . import logs
from .views import Json

EVENTS: Final = "text/event-stream"
_LOOK_S: Final = 0.25
_STATE_LOOK_S: Final = 1.0  # a look at a whole state may take a decision about all jobs
_LOOKS_A_COMMENT: Final = 60  # a comment every 15 s keeps proxies from closing a quiet stream
_BLOCK: Final = 64 * 1024


def told(answer: dict[int | str, Any]) -> dict[int | str, Any]:
    """What a route says in its part of the schema whose `answer` may be followed, too."""
    events = {EVENTS: {"schema": {"type": "string"}}}
    content = {**answer[200].get("content", {}), **events}
    return {**answer, 200: {"description": "As asked.", **answer[200], "content": content}}


def sse(id_: str, event: str, data: str) -> str:
    """One event; a line of `data` each."""
    lines = [f"data: {line}" for line in data.split("\n")]
    return "\n".join([f"id: {id_}", f"event: {event}", *lines, "", ""])


async def follow_events(
    more: Callable[[int], list[Json]],
    ended: Callable[[], bool],
    last: int,
    stop: threading.Event,
) -> AsyncIterator[str]:
    """Events after number `last`. `ended` says, before a look, that none can come after it."""
    quiet = 0
    while not stop.is_set():
        done = await run_in_threadpool(ended)
        items = await run_in_threadpool(more, last)
        for item in items:
            last = int(item["seq"])
            yield sse(str(last), item["event"], json.dumps(item))
        if items:
            quiet = 0
            continue
        if done:
            return
        quiet += 1
        if quiet % _LOOKS_A_COMMENT == 0:
            yield ": still here\n\n"
        await asyncio.sleep(_LOOK_S)


async def follow_state(look: Callable[[], Json], stop: threading.Event) -> AsyncIterator[Json]:
    """What is seen, now and whenever it is no longer the same."""
    last: Json | None = None
    while not stop.is_set():
        found = await run_in_threadpool(look)
        if found != last:
            last = found
            yield found
        await asyncio.sleep(_STATE_LOOK_S)


async def follow_log(
    path: Path, offset: int, ended: Callable[[], bool], stop: threading.Event
) -> AsyncIterator[tuple[int, str]]:
    """(offset after it, text) pieces of the log from `offset` on.

    A job that falls back to a checkpoint has its log cut to what it was then: from there on what
    it prints again is told again.
    """
    while not stop.is_set():
        done = await run_in_threadpool(ended)
        size = await run_in_threadpool(_size, path)
        offset = min(offset, size)
        offset, block = await run_in_threadpool(logs.read_from, path, offset, _BLOCK)
        final = done and offset + len(block) >= size
        if block and not final:
            block = block[: logs.whole(block)]
        if block:
            offset += len(block)
            yield offset, block.decode("utf-8", "replace")
        elif done:
            return
        else:
            await asyncio.sleep(_LOOK_S)


async def as_text(pieces: AsyncIterator[tuple[int, str]]) -> AsyncIterator[str]:
    async for _, text in pieces:
        yield text


async def as_sse(pieces: AsyncIterator[tuple[int, str]]) -> AsyncIterator[str]:
    """A message a piece, numbered by the offset to go on from.

    The text is a JSON string: a stream of lines could not tell how a piece ends, nor carry the
    carriage returns of a progress bar.
    """
    async for offset, text in pieces:
        yield sse(str(offset), "log", json.dumps(text))


def plain(path: Path, offset: int) -> Iterator[str]:
    """The log from `offset` to its present end."""
    left = b""
    for block in logs.blocks(path, offset):
        data = left + block
        cut = logs.whole(data)
        left = data[cut:]
        yield data[:cut].decode("utf-8", "replace")
    if left:
        yield left.decode("utf-8", "replace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
