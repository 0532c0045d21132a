"""Whatever is asked for in whatever order, no device is over-committed, and a refusal is right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from singularity.gpushare.shares import Claim, GpuNode, Packing, Request, choose, victims

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(tuple)
REQUESTS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 3), st.sampled_from(Packing)), max_size=12
)


def request(number: int, units: int, priority: int, packing: Packing) -> Request:
    return Request(f"u{number}", "default", f"p{number}", units, priority, packing)


def held(node: GpuNode, asked: list[tuple[int, int, Packing]]) -> list[Claim]:
    """What has come of requests, one after the other."""
    claims = list[Claim]()
    for number, each in enumerate(asked):
        wants = request(number, *each)
        index = choose(node, claims, wants)
        if index is not None:
            claims.append(
                Claim(wants.uid, "default", wants.name, node.name, index, wants.units, each[1])
            )
    return claims


@given(SIZES, REQUESTS, st.sets(st.integers(0, 3)))
def test_a_device_holds_no_more_than_it_has_and_a_sick_one_nothing(
    sizes: tuple[int, ...], asked: list[tuple[int, int, Packing]], sick: set[int]
) -> None:
    node = GpuNode("g", sum(sizes), sizes, frozenset(sick))
    claims = held(node, asked)
    for index, size in enumerate(sizes):
        there = sum(c.units for c in claims if c.index == index)
        assert there <= (0 if index in sick else size)


@given(SIZES, REQUESTS, st.integers(1, 12))
def test_it_lies_where_least_is_left_and_is_refused_where_no_device_has_room(
    sizes: tuple[int, ...], asked: list[tuple[int, int, Packing]], units: int
) -> None:
    node = GpuNode("g", sum(sizes), sizes)
    claims = held(node, asked)
    free = node.free(claims)
    index = choose(node, claims, request(99, units, 0, Packing.BINPACK))
    fits = [left for left in free if left >= units]
    assert (index is None) == (not fits)
    if index is not None:
        assert free[index] == min(fits) and free.index(free[index]) == index


@given(SIZES, REQUESTS, st.integers(1, 12), st.integers(0, 3))
def test_whoever_must_leave_is_less_urgent_and_not_one_too_many(
    sizes: tuple[int, ...], asked: list[tuple[int, int, Packing]], units: int, priority: int
) -> None:
    node = GpuNode("g", sum(sizes), sizes)
    claims, wants = held(node, asked), request(99, units, priority, Packing.BINPACK)
    leave = victims(node, claims, wants, ())
    weaker = {c.uid for c in claims if c.priority < priority}
    if leave is None:
        stay = [c for c in claims if c.uid not in weaker]
        assert choose(node, stay, wants) is None, "not even without all who are less urgent"
        return
    assert set(leave) <= weaker
    for spared in (None, *leave):
        stay = [c for c in claims if c.uid not in leave or c.uid == spared]
        assert (choose(node, stay, wants) is None) == (spared is not None)
