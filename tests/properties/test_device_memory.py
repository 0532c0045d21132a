"""Laws of a device's memory: nobody is over its cap, and the caps are never over the device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from singularity.agent.device.kernels import QueueId
from singularity.agent.device.memory import Memory, Share

QUEUES = st.integers(0, 3).map(QueueId)
DEEDS = st.lists(
    st.tuples(st.sampled_from(["cap", "take", "give", "leave"]), QUEUES, st.integers(0, 60)),
    max_size=60,
)


@given(st.integers(0, 100), DEEDS)
def test_memory_is_never_over_a_cap_nor_the_caps_over_the_device(
    total: int, deeds: list[tuple[str, QueueId, int]]
) -> None:
    memory = Memory(total)
    for what, queue, count in deeds:
        before = memory
        held = memory.shares.get(queue, Share(0)).held_bytes
        if what == "cap":
            memory, reason = memory.cap(queue, count)
            assert bool(reason) == (memory is before)
        elif what == "take":
            memory = memory.take(queue, count) or memory
        elif what == "give":
            memory = memory.give(queue, min(count, held))
        else:
            memory = memory.leave(queue)
        assert sum(share.cap_bytes for share in memory.shares.values()) <= total
        assert all(0 <= s.held_bytes <= s.cap_bytes for s in memory.shares.values())
        others = {q: s for q, s in before.shares.items() if q != queue}
        assert {q: s for q, s in memory.shares.items() if q != queue} == others


@given(st.integers(1, 100), st.integers(0, 100))
def test_whoever_keeps_to_its_cap_is_served_whatever_others_hold(total: int, cap: int) -> None:
    mine, other = QueueId(1), QueueId(2)
    memory, reason = Memory(total).cap(mine, min(cap, total))
    assert not reason
    memory, _ = memory.cap(other, memory.free_bytes)
    memory = memory.take(other, memory.shares[other].cap_bytes) or memory
    assert memory.take(mine, min(cap, total)) is not None
    assert memory.take(mine, min(cap, total) + 1) is None


def test_a_cap_below_what_is_held_is_refused_with_both_numbers() -> None:
    queue = QueueId(1)
    memory, _ = Memory(100).cap(queue, 80)
    held = memory.take(queue, 70)
    assert held is not None
    after, reason = held.cap(queue, 60)
    assert after is held and "70" in reason and "60" in reason
