"""A server over a Postgres of its own, and three nodes that are messages only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api_client import Agent, Api, open_api


@pytest.fixture
def api(database: str, tmp_path: Path) -> Iterator[Api]:
    with open_api(database, tmp_path) as found:
        yield found


@pytest.fixture
def fleet(api: Api) -> list[Agent]:
    return [Agent(api, "east-1"), Agent(api, "east-2"), Agent(api, "north-1", "eu-north")]
