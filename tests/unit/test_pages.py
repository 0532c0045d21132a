"""What pages show before it is a page: shapes of nouns, words for numbers, and files of others."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from fleets import Planet, share
from hypothesis import given
from hypothesis import strategies as st

from singularity.api.web import rendering, timeline, world
from singularity.primitives.drains import Drain
from singularity.primitives.model import Job, JobState, Tier
from singularity.primitives.nodes import Node, NodeId, Scope, ScopeKind

PAGES = Path(rendering.__file__).parent
VENDORED = PAGES / "static" / "vendor"


def picture(planet: Planet) -> tuple[list[Node], list[Job]]:
    snapshot = planet.ledger.snapshot(planet.now_s)
    return list(snapshot.nodes), list(snapshot.jobs)


def uses(planet: Planet, project: str | None = None) -> dict[str, dict[str, int]]:
    nodes, jobs = picture(planet)
    found = world.areas(nodes, jobs, lambda j: project in (None, j.spec.project))
    for area in found:
        assert sum(area.uses.values()) == area.devices, "each device is told of once"
        assert sum(area.conditions.values()) == area.nodes
        assert sum(map(len, area.clusters.values())) + area.hidden == area.nodes
    return {area.id: dict(area.uses) for area in found}


# -- the world ------------------------------------------------------------------------------------


def test_devices_are_told_by_tier_and_those_of_others_have_no_tier() -> None:
    planet = Planet(nodes=1)
    planet.run(planet.submit("urgent", 3, tier=Tier.PREMIUM, regions=("us",), project="vision"))
    planet.run(planet.submit("small", 1, tier=Tier.BASIC, regions=("us",)))
    assert uses(planet) == {"us": {"premium": 3, "basic": 1}, "eu": {"free": 4}}
    assert uses(planet, "vision")["us"] == {"premium": 3, "others": 1}


def test_shared_closed_and_lost_devices_are_nobodys_to_have() -> None:
    planet = Planet(nodes=2, regions=("us",))
    planet.run(planet.submit("part", 1, share=share(50)))
    there = picture(planet)[1][0].placement[0].node
    other = NodeId("us-1" if there == "us-0" else "us-0")
    planet.ledger.open_drain(Drain("d", Scope(ScopeKind.NODE, there), planet.now_s))
    assert uses(planet)["us"] == {"shared": 1, "free": 4, "closed": 3}
    heard = {n.id: n.heard_s for n in picture(planet)[0]}
    assert planet.ledger.lose({other: heard[other]}, planet.now_s) == [other]
    assert uses(planet)["us"] == {"shared": 1, "closed": 3, "lost": 4}


def test_nodes_beyond_what_can_be_looked_at_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "CELLS_MOST", 3)
    nodes, jobs = picture(Planet(nodes=5, regions=("us",)))
    (area,) = world.areas(nodes, jobs, lambda _: True)
    assert [len(cells) for cells in area.clusters.values()] == [3] and area.hidden == 2


def test_a_move_is_told_from_its_cut_until_it_runs() -> None:
    planet = Planet(nodes=1)
    job = planet.submit("mover", 4, regions=("us", "eu"))
    planet.run(job)
    begun = planet.job(job).placement[0].node

    def moves() -> list[tuple[str, str, str]]:
        nodes, jobs = picture(planet)
        found = world.moves(jobs, {n.id: n for n in nodes})
        return [(m.begun, m.ends, m.state) for m in found]

    assert moves() == []
    home, away = ("us", "eu") if begun == "us-0" else ("eu", "us")
    planet.ledger.open_drain(Drain("d", Scope(ScopeKind.REGION, home), planet.now_s))
    seen = []
    while (
        planet.job(job).state is not JobState.RUNNING or planet.job(job).placement[0].node == begun
    ):
        planet.tick()
        seen += moves()
        planet.obey()
    assert seen == [(home, away, "suspending"), (home, away, "starting")]
    assert moves() == []


def test_moves_between_the_same_regions_are_one_arc() -> None:
    def move(begun: str, ends: str) -> world.Move:
        return world.Move("j", "j", "basic", "starting", 1, begun, ends, 0.0)

    found = [move(*pair) for pair in ("ab", "ab", "ba", "aa", "ax")]
    assert world.arcs(["a", "b"], found) == [world.Arc(0, 1, 2), world.Arc(1, 0, 1)]


# -- the lives of a job ---------------------------------------------------------------------------


def life(number: int, placed_s: float, ended_s: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "incarnation": number,
        "region": "us",
        "nodes": ["n0"],
        "devices": 2,
        "step_from": 0,
        "step_to": None,
        "placed_at_s": placed_s,
        "running_at_s": placed_s + 1,
        "ended_at_s": ended_s,
        "end": "moved" if ended_s else None,
        "lost_s": None,
        "resizes": [],
        **changes,
    }


@given(st.lists(st.floats(1.5, 1e6), min_size=1, max_size=8), st.booleans())
def test_bars_lie_within_the_chart_and_follow_each_other(spans: list[float], goes_on: bool) -> None:
    at_s, lives = 1e9, []
    for number, span_s in enumerate(spans, 1):
        lives.append(life(number, at_s, at_s + span_s))
        at_s += span_s
    if goes_on:
        lives[-1] |= {"ended_at_s": None, "end": None}
    found = timeline.chart(lives, at_s)
    assert found is not None
    (track,) = found.tracks
    assert track.bars[0].left == 0.0
    for bar in track.bars:
        assert 0.0 <= bar.left <= 100.0 and 0.0 < bar.width <= 100.01
    assert track.bars[-1].left + track.bars[-1].width == pytest.approx(100.0, abs=0.2)
    assert track.bars[-1].kind == ("running" if goes_on else "moved")
    assert 1 <= len(found.ticks) <= 6 and found.ticks[-1] == ("", 100.0)


def test_of_a_job_without_a_life_there_is_no_chart() -> None:
    assert timeline.chart([], 5.0) is None


def test_steps_are_those_that_were_told_and_nothing_is_made_up_since() -> None:
    lives = [
        life(1, 0.0, 100.0, step_to=40),
        life(2, 110.0, None, step_from=40, resizes=[{"at_s": 140.0, "devices": 1}]),
    ]
    events = [
        {"incarnation": 1, "event": "checkpoint", "at_s": 21.0, "facts": {"step": 10}},
        {"incarnation": 1, "event": "handover", "at_s": 91.0, "facts": {"step": 40}},
        {"incarnation": 2, "event": "checkpoint", "at_s": 151.0, "facts": {"step": 80}},
        {"incarnation": 2, "event": "engine", "at_s": 152.0, "facts": {"step": 999}},
    ]
    found = timeline.steps(lives, events, {"step": 80}, 200.0)
    assert found["x"] == [1.0, 21.0, 91.0, 100.0, 111.0, 151.0, 200.0]
    assert found["steps"] == [0, 10, 40, 40, 40, 80, None]
    assert found["rate"] == [None, 0.5, pytest.approx(30 / 70), 0.0, None, 1.0, None]
    assert found["devices"] == [2, 2, 2, 0, 2, 1, 1]


def test_how_far_a_life_came_that_was_stopped_is_not_made_up() -> None:
    lives = [life(1, 0.0, 50.0, step_to=10, end="stopped")]
    events = [{"incarnation": 1, "event": "checkpoint", "at_s": 40.0, "facts": {"step": 30}}]
    found = timeline.steps(lives, events, {"step": 10}, 60.0)
    assert (found["steps"], found["rate"][-1]) == ([0, 30, None], None)


# -- words for numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "–"),
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (59.9, "59 s"),
        (200, "3 min 20 s"),
        (4 * 3600 + 300, "4 h 05 min"),
        (2 * 86400 + 3 * 3600, "2 d 03 h"),
    ],
)
def test_durations(seconds: float | None, told: str) -> None:
    assert rendering.duration(seconds) == told


@pytest.mark.parametrize(
    ("fraction", "told"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (0.7, "70 %"),
        (0.98765, "98.8 %"),
        (0.99999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_of_it(fraction: float | None, told: str) -> None:
    assert rendering.percent(fraction) == told


@given(st.floats(0, 1e24))
def test_sizes_are_short(count: float) -> None:
    assert re.fullmatch(r"\d+(\.\d)? (B|[KMGTP]iB)", rendering.size(count))


def test_numbers_are_grouped() -> None:
    assert [rendering.number(n) for n in (None, 0, 7, 0.125, 1234567)] == [
        *("–", "0", "7", "0.125", "1\u2009234\u2009567")
    ]


# -- files ----------------------------------------------------------------------------------------


def test_what_others_made_is_as_they_published_it_and_has_its_licence() -> None:
    said = re.findall(
        r"^\| (\S+) \| .* \| ([0-9a-f]{64}) \|", (VENDORED / "README.md").read_text(), re.M
    )
    assert len(said) == 3
    for name, digest in said:
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
    others = {p.name for p in VENDORED.iterdir()} - {name for name, _ in said} - {"README.md"}
    assert others == {"htmx.LICENSE", "uplot.LICENSE"}


@pytest.mark.parametrize("path", sorted((PAGES / "templates").iterdir()), ids=lambda p: p.name)
def test_no_template_has_a_script_or_a_style_in_it_nor_trusts_a_value(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|hx-on|javascript:|hx-vals|js:", text, re.I)
    assert all(re.match(r' src="\{\{ asset', s) for s in re.findall(r"<script([^>]*)", text))
    assert not re.search(r"\|\s*safe|autoescape|Markup", text)


def test_our_scripts_put_what_they_are_told_in_as_text_only() -> None:
    for path in (PAGES / "static").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(", path.read_text()
        )


def test_the_address_of_a_file_changes_with_it() -> None:
    assert re.fullmatch(r"/ui/static/pages\.css\?[0-9a-f]{12}", rendering.asset("pages.css"))
