"""Services under whatever comes: load, drains, crashes, owners. And what routers say, added up."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from singularity.primitives.drains import Drain
from singularity.primitives.messages import Report
from singularity.primitives.model import TERMINAL, Engine, Intent, JobState, Tier
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.routing import LoadNote
from singularity.scheduler.services import Canary, Measure, Promise, Served, Slo, Target
from singularity.scheduler.sharing import rest_s
from singularity.scheduler.traffic import Part, Window, load_of
from tests.unit.service_scene import POLICY, ServiceScene, service

HAPPENING = st.one_of(
    st.tuples(st.just("load"), st.floats(0.0, 8.0)),
    st.tuples(st.just("wait"), st.integers(1, 90)),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("drain"), st.integers(0, 1)),
    st.tuples(st.just("undrain"), st.just(0)),
    st.tuples(st.just("rescale"), st.tuples(st.integers(1, 3), st.integers(0, 4))),
    st.tuples(st.just("update"), st.booleans()),
    st.tuples(st.just("urgent"), st.integers(1, 6)),
    st.tuples(st.just("calm"), st.just(0)),
)


def undrain(scene: ServiceScene) -> None:
    for order in scene.ledger.drains():
        scene.ledger.close_drain(order.id, scene.now_s)


def calm(scene: ServiceScene) -> None:
    for job in scene.ledger.jobs().values():
        if job.spec.name.startswith("urgent") and job.state not in TERMINAL:
            scene.ledger.intend(job.id, Intent.CANCEL, scene.now_s)


def befall(scene: ServiceScene, what: str, how: object, number: int) -> None:
    match what, how:
        case "crash", int(which):
            ready = scene.ready()
            if ready:
                job = ready[which % len(ready)]
                (node,) = job.nodes
                life = {"job": job.id, "node": node, "incarnation": job.incarnation}
                said = Report.model_validate({**life, "phase": "exited", "exit_code": 1})
                scene.ledger.record(said, scene.now_s)
        case "drain", int(which):
            if not scene.ledger.drains():
                order = Drain(f"drain-{number}", Scope(ScopeKind.NODE, f"n{which}"), scene.now_s)
                scene.ledger.open_drain(order)
        case "undrain", _:
            undrain(scene)
        case "rescale", (int(least), int(more)):
            scene.rescale(least, least + more)
        case "urgent", int(devices):
            scene.train(f"urgent-{number}", devices, tier=Tier.PREMIUM)
        case "calm", _:
            calm(scene)
        case "update", bool(tries):
            canary = Canary(0.5, 1_000_000, 60.0) if tries else None
            scene.update(f"v{number}", canary)


UNQUIET: list[tuple[str, object]] = [  # its training is resized often, and then left alone for long
    ("drain", 1),
    ("crash", 5),
    *[("update", True), ("crash", 6), ("update", False), ("rescale", (2, 4))],
    *[("wait", 4), ("update", False), ("rescale", (3, 3)), ("calm", 0), ("crash", 2)],
]


@settings(max_examples=8, deadline=None)
@example(story=UNQUIET, tier=Tier.BASIC)
@given(story=st.lists(HAPPENING, max_size=12), tier=st.sampled_from(Tier))
def test_a_service_has_what_it_wants_as_soon_as_nothing_happens_any_more(
    story: list[tuple[str, object]], tier: Tier
) -> None:
    """The scene holds the law that there are never more than its most, at every moment."""
    scene, busy = ServiceScene(nodes=2, devices=6), 0.0
    scene.train("train", 6, least=1, tier=tier, engines=(Engine.RESTART,))
    scene.serve(service(least=1, most=4, tier=tier))
    for number, (what, how) in enumerate(story):
        if what == "load":
            assert isinstance(how, float)
            busy = how
        befall(scene, what, how, number)
        scene.go(int(how) if what == "wait" and isinstance(how, int) else 2, busy=busy)
    undrain(scene)
    calm(scene)
    scene.go(240, busy=busy)
    wanted = scene.seen().wanted()
    assert wanted[1] == 0, "every trial comes to an end"
    assert len(scene.ready()) == wanted[0]
    assert all(j.state is JobState.RUNNING for j in scene.replicas() if j.placement)
    revisions = {j.spec.serving.revision for j in scene.replicas() if j.spec.serving}
    assert revisions == {scene.seen().revision}, "of others nothing is left"
    train = scene.job("train")
    assert sum(loan.devices for loan in train.loans) <= train.devices - train.held
    scene.end()
    scene.go(60 + int(rest_s(scene.job("train"), scene.now_s, POLICY)))
    assert scene.job("train").held == 6 and scene.job("train").loans == ()
    assert sum(n.used for n in scene.ledger.nodes().values()) == 6


SPANS = st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 20.0)), min_size=1, max_size=60)


@given(spans=SPANS, lost=st.sets(st.integers(0, 59)))
def test_notes_that_are_lost_change_a_steady_load_by_nothing(
    spans: list[tuple[int, float]], lost: set[int]
) -> None:
    """Means are over the spans that came."""
    came = [s for n, s in enumerate(spans) if n not in lost] or spans[:1]
    window = Window()
    for arrivals, busy in came:
        window = Window(window.arrivals + arrivals, 0, window.span_s + 1.0, window.busy_s + busy)
    load = load_of([Part("r", 0.0, window, window, 0)])
    assert abs(load.rps - sum(a for a, _ in came) / len(came)) < 1e-9
    assert abs(load.busy - sum(b for _, b in came) / len(came)) < 1e-9


def test_revisions_of_one_router_share_its_spans_and_routers_add_up() -> None:
    """A router says nothing of a revision of which there was nothing to say."""
    main, tried = Window(60, 60, 60.0, 120.0), Window(6, 6, 1.0, 0.0)
    one = load_of([Part("a", 9.0, main, main, 2), Part("a", 4.0, tried, tried, 5)])
    assert one.rps == 1.1 and one.busy == 2.0
    assert one.queued == 2, "what waited when a revision was last spoken of is no more"
    both = load_of([Part("a", 9.0, main, main, 2), Part("b", 9.0, main, main, 3)])
    assert both.rps == 2.0 and both.queued == 5


def test_how_uneven_requests_come_is_told_by_the_variance_of_all_routers() -> None:
    """Independent streams: their variances add up, as their means do."""
    calm, wild = Window(60, 60, 60.0, 0.0, 60.0), Window(60, 60, 60.0, 0.0, 1_740.0)
    assert load_of([Part("a", 0.0, calm, calm, 0)]).spread == 1.0
    assert load_of([Part("a", 0.0, wild, calm, 0)]).spread == 29.0
    both = load_of([Part("a", 0.0, calm, calm, 0), Part("b", 0.0, wild, calm, 0)])
    assert both.spread == both.demand(Measure.RPS).spread == 15.0
    even = load_of([Part("a", 0.0, Window(60, 60, 60.0), calm, 0)])
    assert even.spread == 1.0, "what is done for them is uneven, too"
    assert load_of([]).spread == 1.0


def test_of_a_router_that_does_not_tell_requests_are_taken_to_come_independently() -> None:
    """A note of an older release has no such field, and one of its own has nothing new for it."""
    old = {"service": "s", "revision": 1, "span_s": 1.0, "arrivals": 7}
    window = Window().plus(LoadNote.model_validate(old))
    assert load_of([Part("a", 0.0, window, window, 0)]).spread == 1.0
    new = LoadNote.model_validate({**old, "jumps": 49.0})
    mixed = window.plus(new)
    assert mixed.jumps == 56.0 and load_of([Part("a", 0.0, mixed, mixed, 0)]).spread == 4.0
    for wrong in (-1.0, float("inf"), float("nan"), "many"):
        with pytest.raises(ValidationError):
            LoadNote.model_validate({**old, "jumps": wrong})


def test_a_wait_is_told_by_what_is_answered() -> None:
    quiet, stuck = Window(60, 60, 60.0, 0.0), Window(60, 0, 60.0, 0.0)
    assert load_of([Part("a", 0.0, quiet, quiet, 3)]).wait_s == 3.0
    assert load_of([Part("a", 0.0, stuck, stuck, 3)]).wait_s == 60.0
    assert load_of([Part("a", 0.0, stuck, stuck, 0)]).wait_s == 0.0


def test_a_service_tells_the_sizing_what_it_promised() -> None:
    promised = service(slo=Slo(Promise.WAIT, 0.5, 0.999), idle_after_s=60.0)
    assert promised.bounds.wait_s == 0.5 and abs(promised.bounds.miss - 0.001) < 1e-9
    assert promised.bounds.idle_after_s == 60.0 and promised.floor == 0
    silent = service(timeout_s=30.0, target=Target(Measure.RPS, 7.0))
    assert silent.bounds.wait_s == 30.0 and silent.bounds.per_replica == 7.0


@given(
    done=st.integers(0, 100),
    failed=st.integers(0, 100),
    shed=st.integers(0, 100),
    late=st.booleans(),
)
def test_what_failed_or_was_shed_was_not_as_promised(
    done: int, failed: int, shed: int, late: bool
) -> None:
    times = (0,) * 15 + (done + failed,) if late else (done + failed,) + (0,) * 15
    found = Served(0, done, failed, shed, times, times)
    attained = found.attained(Slo(Promise.WAIT, 1.0))
    if not found.total:
        assert attained is None
    else:
        assert attained == (0.0 if late else done / found.total)
