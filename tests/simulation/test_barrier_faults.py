"""Three ranks on two nodes, and one thing that breaks: every order of events, exhausted."""

from __future__ import annotations

import pytest

from singularity.agent.barrier import Verdict
from tests.properties.barrier_world import at_rest, can_reach, explore, ran_out, world


@pytest.mark.parametrize(("ranks", "faults"), [((2, 1), 0), ((1, 1), 1)])
def test_nothing_that_breaks_parks_ranks_apart_or_holds_them_for_ever(
    ranks: tuple[int, ...], faults: int
) -> None:
    worlds, after = explore(world(*ranks, faults=faults, restarts=not faults))
    ends = [i for i, w in enumerate(worlds) if at_rest(w)]
    broken = [w for w in worlds if faults and not w.faults]
    assert bool(broken) == bool(faults)
    assert {worlds[i].order.verdict for i in ends} == {Verdict.FINISH, Verdict.ABORT}
    live = can_reach(ends, after)
    stuck = [w for i, w in enumerate(worlds) if i not in live and not ran_out(w)]
    assert not stuck, f"{len(stuck)} of {len(worlds)} states cannot come to rest: {stuck[0]}"
