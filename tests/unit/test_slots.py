"""Time slices: one holder at a time, handed over while the holder waits."""

from __future__ import annotations

import threading
from pathlib import Path

from singularity.agent.interposer.slots import Slots

_DEADLINE_S = 30.0


def _follow_aside(slots: Slots, number: int) -> threading.Thread:
    thread = threading.Thread(target=slots.follow, args=(number,), daemon=True)
    thread.start()
    return thread


def test_two_ranks_of_a_slot_never_hold_it_together(tmp_path: Path) -> None:
    computing, turns, overlaps = [], [], []

    def rank(name: str) -> None:
        slots = Slots(tmp_path, hold_max_s=_DEADLINE_S)
        for _ in range(50):
            slots.follow(0)
            computing.append(name)
            overlaps.append(len(computing) > 1)
            turns.append(name)
            computing.remove(name)
            with slots.yielded():
                assert not slots.held
        slots.close()

    threads = [threading.Thread(target=rank, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert len(turns) == 150
    assert not any(overlaps)


def test_ranks_of_different_slots_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, other = Slots(tmp_path), Slots(tmp_path)
    one.follow(0)
    other.follow(1)
    assert one.held
    assert other.held
    one.close()
    other.close()


def test_a_waiting_rank_gets_the_slot_while_the_holder_waits_for_something_else(
    tmp_path: Path,
) -> None:
    holder, waiter = Slots(tmp_path, hold_max_s=_DEADLINE_S), Slots(tmp_path)
    holder.follow(0)
    thread = _follow_aside(waiter, 0)
    assert (holder.held, waiter.held) == (True, False)
    with holder.yielded():
        thread.join(_DEADLINE_S)
        assert (holder.held, waiter.held) == (False, True)
        waiter.close()
    assert (holder.held, holder.broken) == (True, 0)
    holder.close()


def test_a_holder_that_blocks_unseen_loses_the_slot_and_gets_it_back(tmp_path: Path) -> None:
    holder, waiter = Slots(tmp_path, hold_max_s=0.01), Slots(tmp_path, hold_max_s=_DEADLINE_S)
    holder.follow(0)
    _follow_aside(waiter, 0).join(_DEADLINE_S)
    assert waiter.held
    assert (holder.held, holder.broken) == (False, 1)
    waiter.close()
    holder.follow(0)
    assert holder.held
    holder.close()


def test_leaving_the_slots_frees_the_token(tmp_path: Path) -> None:
    first, second = Slots(tmp_path), Slots(tmp_path)
    first.follow(3)
    first.follow(-1)
    assert (first.held, first.number) == (False, -1)
    second.follow(3)
    assert second.held
    second.close()
