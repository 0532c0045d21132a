"""The published schema is kept, whatever is asked and by whom."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.integration.api_client import open_api
from tests.integration.asking import EXAMPLES, LABELS, Asked, World, requests_to

_SEED = int(os.environ.get("SINGULARITY_SEED", "0")) or random.randrange(1, 2**31)
_HOW = settings(
    max_examples=EXAMPLES or 16,
    derandomize=not EXAMPLES,
    database=None,  # what is found depends on what came before
    deadline=None,
    phases=[Phase.generate],  # to make an example smaller takes minutes, and it is small enough
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def world(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with open_api(new_database(), tmp_path_factory.mktemp("fuzz")) as api:
        found = World(api)
        yield found


@pytest.mark.parametrize("label", LABELS)
def test_every_answer_is_one_that_the_schema_promises(world: World, label: str) -> None:
    if EXAMPLES:
        print(f"SINGULARITY_SEED={_SEED}")
    world.restore()

    @_HOW
    @given(requests_to(label, world.known))
    def ask(asked: Asked) -> None:
        world.holds(asked)

    (seed(_SEED)(ask) if EXAMPLES else ask)()
