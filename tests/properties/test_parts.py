"""Whatever comes and goes: no device is promised twice, and none is refused that has room."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from singularity.primitives.model import ACTIVE, Intent, Job, JobId, Tier
from singularity.primitives.sharing import DeviceShare, Part, changed
from tests.unit.fleets import GIB, Planet, share

NODES, DEVICES, MEMORY_GIB = 2, 2, 16
SHARES = st.builds(share, st.integers(1, 100), st.integers(1, 16), rt=st.booleans())
STORY = st.lists(
    st.one_of(
        st.tuples(st.just("share"), SHARES, st.integers(1, 3)),
        st.tuples(st.just("whole"), st.integers(1, 3), st.integers(0, 2)),
        st.tuples(st.sampled_from(["end", "hold", "answer", "tick"]), st.integers(0, 9), st.none()),
    ),
    max_size=25,
)


def happen(planet: Planet, what: str, first: object, second: object) -> None:
    name = f"j{len(planet.ledger.jobs())}"
    alive = sorted(j.id for j in planet.ledger.jobs().values() if j.state in ACTIVE)
    chosen = alive[first % len(alive)] if alive and isinstance(first, int) else None
    if isinstance(first, DeviceShare) and isinstance(second, int):
        planet.submit(name, second, share=first)
    elif what == "whole" and isinstance(first, int) and isinstance(second, int):
        planet.submit(name, first, tier=Tier(second))
    elif what == "tick":
        planet.tick()
    elif chosen is not None:
        match what:
            case "end":
                planet.report(chosen, "running")
                planet.report(chosen, "exited", exit_code=0)
            case "hold":
                planet.ledger.intend(chosen, Intent.HOLD, planet.now_s)
            case "answer":
                phase = {"suspending": "dumped", "stopping": "stopped"}
                planet.report(chosen, phase.get(planet.job(chosen).state, "running"))


def given_out(planet: Planet) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]]:
    """Milli and bytes of each device, counted from the jobs alone."""
    milli, held = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for job in planet.ledger.jobs().values():
        if job.spec.share is None:
            continue
        seats = {
            (s.node, index)
            for s in (*(job.placement if job.state in ACTIVE else ()), *job.target)
            for index in s.indices
        }
        for seat in seats:
            milli[seat] += job.spec.share.compute_milli
            held[seat] += job.spec.share.memory_bytes
    return milli, held


def fits(planet: Planet, job: Job) -> bool:
    """Could a job of one rank have its share somewhere, by looking everywhere? Nothing is kept for
    others that wait for more."""
    wanted = job.spec.share
    assert wanted is not None
    milli, held = given_out(planet)
    for node in planet.ledger.nodes().values():
        if node.used < node.devices:
            return True
        for part in node.parts:
            seat = node.id, part.index
            compute = milli[seat] + wanted.compute_milli
            if compute <= 1000 and held[seat] + wanted.memory_bytes <= MEMORY_GIB * GIB:
                return True
    return False


LATECOMER = [  # to devices that would have been whole when all who were on them have gone
    ("share", share(1, 1), 1),
    ("share", share(68, 1), 3),
    ("whole", 1, 0),
    ("tick", 0, None),
    ("answer", 1, None),
    ("share", share(14, 1), 3),
    ("share", share(19, 1), 1),
    ("end", 0, None),
    ("hold", 0, None),
]


@given(STORY)
@example(LATECOMER)
@settings(deadline=None)
def test_no_device_is_promised_twice_and_none_with_room_is_refused(
    story: list[tuple[str, object, object]],
) -> None:
    planet = Planet(nodes=NODES, devices=DEVICES, regions=("us",))
    for what, first, second in story:
        happen(planet, what, first, second)
        milli, held = given_out(planet)
        assert all(used <= 1000 for used in milli.values())
        assert all(used <= MEMORY_GIB * GIB for used in held.values())
        for node in planet.ledger.nodes().values():
            whole = sum(
                s.devices
                for job in planet.ledger.jobs().values()
                if job.spec.share is None and job.state in ACTIVE
                for s in job.placement
                if s.node == node.id
            )
            assert node.used == whole + len(node.parts) <= node.devices
    plan = planet.plan()
    kept = any("are being freed" in r.detail for rs in plan.pending.values() for r in rs)
    for job_id, reasons in plan.pending.items() if not (plan.actions or kept) else ():
        job = planet.job(job_id)
        if job.spec.share and job.spec.ranks == 1 and reasons[0].kind == "capacity":
            assert not fits(planet, job), (job.spec, reasons)


@given(st.lists(st.tuples(SHARES, st.integers(0, 3)), max_size=12), st.randoms())
def test_what_was_given_is_given_back(
    shares: list[tuple[DeviceShare, int]], random: object
) -> None:
    """In whatever order, and nothing is left of it."""
    parts: tuple[Part, ...] = ()
    for one, index in shares:
        parts = changed(parts, frozenset({index}), one, 1)
    assert [p.index for p in parts] == sorted({index for _, index in shares})
    random.shuffle(shares)  # type: ignore[attr-defined]
    for one, index in shares:
        parts = changed(parts, frozenset({index}), one, -1)
    assert parts == ()


def test_the_same_facts_give_the_same_places() -> None:
    def run() -> list[tuple[JobId, object]]:
        planet = Planet(nodes=3, devices=2, regions=("us", "eu"))
        for i in range(9):
            planet.submit(f"j{i}", 1 + i % 2, share=share(10 + 13 * i % 60, 1 + i % 5))
        planet.tick()
        return sorted((j.id, j.placement) for j in planet.ledger.jobs().values())

    assert run() == run()
