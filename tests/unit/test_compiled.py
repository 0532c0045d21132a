"""Where there is no compiler the same is done without; small fleets never ask for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from singularity.scheduler.fleet import index, shares
from singularity.scheduler.fleet.gangs import Fleet, Gang
from singularity.scheduler.fleet.index import COMPILED_FROM, Plain
from singularity.scheduler.fleet.layout import lay_out


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("kernels", "sharekernels"):
        monkeypatch.delitem(sys.modules, f"singularity.scheduler.fleet.{name}", raising=False)
    index.compiled.cache_clear()
    shares.rater.cache_clear()
    yield
    index.compiled.cache_clear()
    shares.rater.cache_clear()


def test_without_numba_the_reference_runs(no_numba: None) -> None:
    nodes = COMPILED_FROM
    codes = np.zeros(nodes, dtype=np.int32)
    made = Fleet.build(lay_out(codes, codes, codes), np.full(nodes, 8), 8)
    found = made.find(Gang(20), np.ones(len(made.layout.start), dtype=np.uint8))
    assert found == ((0, 8), (1, 8), (2, 4))
    assert isinstance(index.engine(nodes), Plain)
    assert shares.rater() is shares.rate_plainly


def test_a_small_fleet_is_not_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "compiled", lambda: pytest.fail("a compiler was asked for"))
    assert isinstance(index.engine(COMPILED_FROM - 1), Plain)
