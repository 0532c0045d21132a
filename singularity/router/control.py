"""The router's line to the control plane. It works on without: with the last table it was given."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import ValidationError

from singularity.primitives.errors import Unavailable
from singularity.primitives.routing import LOOK_S, NOTE_S, Loads, Table

log = logging.getLogger(__name__)

_MARGIN_S: Final = 5.0  # for an answer, beyond what it may wait for news
_RETRY_FIRST_S: Final = 0.2
_RETRY_MOST_S: Final = 3.0


class Control:
    """`kept` is the file of the last table; `use` is called with every new one."""

    def __init__(
        self, http: aiohttp.ClientSession, region: str, kept: Path, use: Callable[[Table], None]
    ) -> None:
        """`http` has the address and the credential."""
        self._http, self._kept, self._use = http, kept, use
        self._path = f"/v1/routers/{region}"
        self.heard_s: float | None = None  # when the control plane last answered

    def recall(self) -> None:
        """Begin with what an earlier run was told."""
        try:
            self._use(Table.model_validate_json(self._kept.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            # Of another release, perhaps, or a bad disk: the control plane has a new one.
            log.warning("kept table unreadable", extra={"reason": str(error)})

    async def follow(self) -> None:
        """Ask for another table, for ever. The first one counts whatever its version: the kept one
        may be of another planet. So does a lower one: the database was put back to an older day."""
        version, retry_s = None, _RETRY_FIRST_S
        while True:
            try:
                table = await self._look(version or 0)
            except Unavailable as error:
                log.warning("no table", extra={"reason": error.detail})
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _RETRY_MOST_S)
                continue
            retry_s, self.heard_s = _RETRY_FIRST_S, asyncio.get_running_loop().time()
            if table.version != version:
                version = table.version
                self._use(table)
                self._keep(table)

    def _keep(self, table: Table) -> None:
        """For the next run. This one needs no disk, and goes on where it is full."""
        draft = self._kept.with_name(f".{self._kept.name}.new")
        try:
            draft.write_text(table.model_dump_json())
            os.replace(draft, self._kept)
        except OSError as error:
            log.warning("table not kept", extra={"reason": str(error)})

    async def tell(self, loads: Callable[[], Loads]) -> None:
        """Post what was counted, every NOTE_S. What cannot be posted is not repeated."""
        while True:
            await asyncio.sleep(NOTE_S)
            body = loads().model_dump_json()
            try:
                await self._call("POST", "/loads", body, _MARGIN_S)
            except Unavailable as error:
                log.warning("loads not taken", extra={"reason": error.detail})

    async def _look(self, version: int) -> Table:
        body = await self._call("GET", f"/table?after={version}", None, LOOK_S + _MARGIN_S)
        try:
            return Table.model_validate_json(body)
        except ValidationError as error:
            raise Unavailable(f"no table: {error.errors()[0]['msg']}") from error

    async def _call(self, method: str, path: str, body: str | None, most_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=most_s)
        headers = {"Content-Type": "application/json"}
        url = self._path + path
        try:
            async with self._http.request(
                method, url, data=body, headers=headers, timeout=timeout
            ) as answer:
                found = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise Unavailable(f"{answer.status}: {found[:200].decode(errors='replace')}")
        return found
