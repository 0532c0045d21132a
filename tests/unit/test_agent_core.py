"""The agent without hands: letters in order, once; one truth per job; nothing of an old epoch."""

from __future__ import annotations

import pytest

from singularity.agent.answers import (
    Cooled,
    CutFailed,
    Done,
    Ended,
    Hung,
    Refused,
    Resized,
    Saved,
    Started,
)
from singularity.agent.core import Admitted, AgentState, Boot, Event, Forget, react
from singularity.agent.effects import Effect, Kill, Launch, LetGo, TakeCut, TakeSlots
from singularity.primitives.messages import Command, Cut, Envelope, Report, Reslot, Start, Stop
from singularity.primitives.model import JobId, ShardImage, Unable
from singularity.primitives.nodes import NodeId

NODE, JOB = NodeId("n"), JobId("j")
IMAGE = ShardImage(NODE, (0,), "digest", 5)


class Agent:
    """Feeds events to react() and keeps what comes out."""

    def __init__(self) -> None:
        self.state = AgentState(NODE, epoch=1)
        self.effects: list[Effect] = []
        self.reports: list[Report] = []

    def see(self, event: Event) -> Agent:
        self.state, effects, reports = react(self.state, event)
        self.effects, self.reports = list(effects), list(reports)
        return self

    def letter(self, command: Command, seq: int | None = None, epoch: int = 1) -> Agent:
        found = self.state.seq + 1 if seq is None else seq
        return self.see(Envelope(node=NODE, epoch=epoch, seq=found, command=command))

    def running(self, incarnation: int = 1) -> Agent:
        return self.letter(start(incarnation)).see(Started(JOB, incarnation))

    @property
    def phases(self) -> list[str]:
        return [r.phase for r in self.reports]


def start(incarnation: int = 1) -> Start:
    return Start(
        job=JOB,
        node=NODE,
        incarnation=incarnation,
        gang=(NODE,),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=("x",),
    )


def cut(number: int = 1, *, keep_running: bool = True, incarnation: int = 1) -> Cut:
    return Cut(job=JOB, node=NODE, incarnation=incarnation, cut=number, keep_running=keep_running)


def stop(incarnation: int = 1) -> Stop:
    return Stop(job=JOB, node=NODE, incarnation=incarnation)


# -- letters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seq", "epoch"), [(2, 1), (1, 2), (1, 3)])
def test_a_letter_that_is_not_the_next_of_this_epoch_is_left_lying(seq: int, epoch: int) -> None:
    agent = Agent()
    before = agent.state
    agent.letter(start(), seq, epoch)
    assert agent.state == before and not agent.effects and not agent.reports


def test_a_letter_for_another_node_is_left_lying() -> None:
    agent = Agent().see(Envelope(node=NodeId("m"), epoch=1, seq=1, command=start()))
    assert agent.state.seq == 0 and not agent.effects


def test_a_repeated_letter_does_nothing() -> None:
    agent = Agent().letter(start())
    assert [type(e) for e in agent.effects] == [Launch]
    agent.letter(start(), seq=1)
    assert not agent.effects and not agent.reports and agent.state.seq == 1


# -- the life of a job ---------------------------------------------------------------------------


def test_a_job_is_reported_running_when_its_hands_say_so() -> None:
    agent = Agent().letter(start())
    assert not agent.reports
    assert agent.see(Started(JOB, 1, step=7)).reports[0].step == 7


def test_a_cut_goes_on_running_or_releases() -> None:
    agent = Agent().running().letter(cut(1))
    assert [type(e) for e in agent.effects] == [TakeCut]
    agent.see(Saved(JOB, 1, 1, False, IMAGE))
    assert (
        agent.phases == ["running"] and agent.reports[0].image == IMAGE and JOB in agent.state.live
    )
    agent.letter(cut(2, keep_running=False)).see(Saved(JOB, 1, 2, True, IMAGE))
    assert agent.phases == ["dumped"] and agent.reports[0].cut == 2 and not agent.state.live


def test_a_failed_cut_is_told_and_the_job_lives() -> None:
    agent = Agent().running().letter(cut(1)).see(CutFailed(JOB, 1, 1, "the disk is full"))
    assert agent.phases == ["running"]
    assert agent.reports[0].cut == 1 and agent.reports[0].image is None
    assert agent.state.live[JOB].cut is None


def test_a_cut_of_what_has_ended_is_ignored() -> None:
    agent = Agent().running().see(Ended(JOB, 1, exit_code=0)).letter(cut())
    assert not agent.effects and not agent.reports and agent.state.seq == 2


def test_a_durable_cut_is_told_again_with_the_end() -> None:
    """Its own report may never have arrived."""
    agent = Agent().running().letter(cut(1)).see(Saved(JOB, 1, 1, False, IMAGE))
    agent.see(Ended(JOB, 1, exit_code=0))
    assert agent.phases == ["exited"] and (agent.reports[0].cut, agent.reports[0].image) == (
        1,
        IMAGE,
    )


@pytest.mark.parametrize(
    ("done", "phase"),
    [
        (Ended(JOB, 1, exit_code=3), "exited"),
        (Ended(JOB, 1, reason="killed by signal 9"), "lost"),
        (Refused(JOB, 1, "does not verify", corrupt=True), "refused"),
    ],
)
def test_every_end_is_told_once_and_remembered(done: Done, phase: str) -> None:
    agent = Agent().letter(start()).see(done)
    assert agent.phases == [phase] and not agent.state.live
    assert agent.state.last[JOB] == agent.reports[0]
    assert not agent.see(done).reports, "the hands said it twice"


def test_what_hands_of_an_older_life_say_is_ignored() -> None:
    agent = Agent().running(1).see(Ended(JOB, 1, exit_code=1)).running(2)
    before = agent.state
    agent.see(Ended(JOB, 1, exit_code=1))
    assert agent.state == before and not agent.reports


# -- stop ----------------------------------------------------------------------------------------


def test_stop_kills_and_is_answered_when_nothing_is_left() -> None:
    agent = Agent().running().letter(stop())
    assert agent.effects == [Kill(JOB, 1)] and not agent.reports
    assert agent.see(Ended(JOB, 1, killed=True)).phases == ["stopped"]


def test_stop_of_what_never_was_is_answered_at_once() -> None:
    assert Agent().letter(stop()).phases == ["stopped"]


def test_stop_of_what_has_ended_is_answered_with_how_it_ended() -> None:
    agent = Agent().running().see(Ended(JOB, 1, exit_code=3)).letter(stop())
    assert agent.phases == ["exited"] and agent.reports[0].exit_code == 3


def test_stop_of_an_older_life_does_not_touch_the_newer() -> None:
    agent = Agent().running(2).letter(stop(1))
    assert not agent.effects and JOB in agent.state.live


def test_a_second_stop_kills_again() -> None:
    assert Agent().running().letter(stop()).letter(stop()).effects == [Kill(JOB, 1)]


def test_a_stopping_job_takes_no_cut() -> None:
    assert not Agent().running().letter(stop()).letter(cut()).effects


# -- restarts ------------------------------------------------------------------------------------


def test_after_a_restart_what_runs_runs_on_and_its_cut_is_taken_up() -> None:
    agent = Agent().running().letter(cut(1)).see(Boot(frozenset({(JOB, 1)})))
    assert [type(e) for e in agent.effects] == [TakeCut] and not agent.reports


@pytest.mark.parametrize("started", [True, False])
def test_after_a_restart_what_is_half_there_is_ended_and_told_as_lost(started: bool) -> None:
    """'stopped' would let the crash of its peers count as their own fault."""
    agent = Agent().letter(start())
    if started:
        agent.see(Started(JOB, 1))
    live = frozenset() if started else frozenset({(JOB, 1)})
    assert agent.see(Boot(live)).effects == [Kill(JOB, 1)]
    assert agent.see(Ended(JOB, 1, killed=True)).phases == ["lost"]


def test_after_a_restart_what_was_being_stopped_is_stopped() -> None:
    agent = Agent().running().letter(stop()).see(Boot(frozenset({(JOB, 1)})))
    assert agent.effects == [Kill(JOB, 1)]
    assert agent.see(Ended(JOB, 1, killed=True)).phases == ["stopped"]


def test_a_restart_in_the_middle_of_a_restart_changes_nothing() -> None:
    once = Agent().running().see(Boot(frozenset()))
    state, effects = once.state, once.effects
    assert once.see(Boot(frozenset())).effects == effects and once.state == state


# -- epochs and forgetting -----------------------------------------------------------------------


def test_a_new_epoch_kills_everything_and_forgets_everything() -> None:
    agent = Agent().running().see(Admitted(2))
    assert agent.effects == [Kill(JOB, 1)]
    assert agent.state == AgentState(NODE, epoch=2)
    agent.see(Ended(JOB, 1, killed=True))
    assert not agent.reports, "nobody waits for what an older epoch did"


def test_only_what_has_ended_and_is_the_same_life_is_forgotten() -> None:
    agent = Agent().running()
    assert JOB in agent.see(Forget(((JOB, 1),))).state.last, "it lives"
    agent.see(Ended(JOB, 1, exit_code=0))
    assert JOB in agent.see(Forget(((JOB, 2),))).state.last, "another life"
    assert JOB not in agent.see(Forget(((JOB, 1),))).state.last


# -- other slots -----------------------------------------------------------------------------------


def reslot(number: int = 1, incarnation: int = 1) -> Reslot:
    where = {"job": JOB, "node": NODE, "incarnation": incarnation}
    return Reslot.model_validate({**where, "resize": number, "slots": (1,), "devices": 2})


def test_new_slots_are_in_force_when_the_ranks_have_followed() -> None:
    agent = Agent().running().letter(cut()).see(Saved(JOB, 1, 1, False, IMAGE)).letter(reslot())
    assert [type(e) for e in agent.effects] == [TakeSlots]
    assert agent.state.live[JOB].start.slots == (0,)
    agent.see(Resized(JOB, 1, 1))
    assert agent.state.live[JOB].start.slots == (1,)
    (report,) = agent.reports
    assert (report.phase, report.resize, report.devices) == ("running", 1, 2)
    assert report.image == IMAGE, "the latest truth holds what was true before"


def test_ranks_that_do_not_follow_keep_their_slots_and_it_is_told() -> None:
    agent = Agent().running().letter(reslot()).see(Resized(JOB, 1, 1, "rank 0 is deaf"))
    assert agent.state.live[JOB].start.slots == (0,)
    (report,) = agent.reports
    assert (report.resize, report.devices, report.reason) == (1, 1, "rank 0 is deaf")


def test_a_restarted_agent_takes_up_a_change_of_slots() -> None:
    agent = Agent().running().letter(reslot()).see(Boot(frozenset({(JOB, 1)})))
    assert [type(e) for e in agent.effects] == [TakeSlots]


def test_new_slots_for_what_has_ended_are_ignored() -> None:
    agent = Agent().running().see(Ended(JOB, 1, exit_code=0)).letter(reslot())
    assert not agent.effects and not agent.reports


def test_a_hang_is_said_until_somebody_stops_it_whatever_happens_meanwhile() -> None:
    agent = Agent().running().letter(cut(1, keep_running=True))
    agent.see(Saved(JOB, 1, 1, False, IMAGE))
    agent.see(Hung(JOB, 1, "rank 0 has made no step", step=9))
    (report,) = agent.reports
    assert (report.phase, report.reason, report.step) == ("hung", "rank 0 has made no step", 9)
    assert report.image == IMAGE, "the last cut is not forgotten over it"
    agent.letter(cut(2, keep_running=True)).see(CutFailed(JOB, 1, 2, "not held in time"))
    assert agent.phases == ["hung"]
    agent.see(Forget(((JOB, 1),)))
    assert agent.state.last[JOB].phase == "hung", "it lives, so it is said with every heartbeat"
    agent.letter(Stop(job=JOB, node=NODE, incarnation=1, stacks=True))
    assert agent.effects == [Kill(JOB, 1, stacks=True)]
    assert agent.see(Ended(JOB, 1, killed=True)).phases == ["stopped"]


def test_what_an_engine_can_never_do_is_told_and_the_next_cut_outlives_the_end_of_the_last() -> (
    None
):
    agent = Agent().running().letter(cut(1)).letter(cut(2))
    agent.see(CutFailed(JOB, 1, 1, "a socket", Unable.JOB))
    (report,) = agent.reports
    assert (report.cut, report.unable, report.image) == (1, Unable.JOB, None)
    life = agent.state.live[JOB]
    assert life.cut is not None and life.cut.cut == 2, "a new agent would take it up"
    agent.see(Saved(JOB, 1, 2, False, IMAGE))
    assert agent.state.live[JOB].cut is None and agent.reports[0].unable is None


def test_a_node_that_can_dump_nothing_says_so_when_ranks_start() -> None:
    agent = Agent().letter(start()).see(Started(JOB, 1, reason="no CRIU"))
    assert [(r.phase, r.unable, r.reason) for r in agent.reports] == [
        ("running", Unable.NODE, "no CRIU")
    ]


# -- what waits, warm ----------------------------------------------------------------------------


def waiting() -> Agent:
    """A life that was stopped, and whose processes wait for the next one."""
    agent = Agent().running().letter(stop().model_copy(update={"warm": True}))
    assert agent.effects[-1] == Kill(JOB, 1, warm=True)
    return agent.see(Ended(JOB, 1, killed=True, warm=True))


def test_what_waits_is_told_and_not_let_go_of_by_the_life_that_begins_here() -> None:
    agent = waiting()
    assert agent.reports[-1].phase == "stopped" and agent.reports[-1].warm
    agent.letter(start(2))
    assert [type(e) for e in agent.effects] == [Launch]
    assert not agent.see(Started(JOB, 2)).reports[-1].warm


def test_what_the_control_plane_has_no_use_for_is_let_go_of() -> None:
    agent = waiting().see(Forget(((JOB, 1),)))
    assert agent.effects[-1] == LetGo(JOB, 1)


def test_that_it_waits_no_more_is_told_once() -> None:
    agent = waiting().see(Cooled(JOB, 0))
    assert not agent.reports and agent.state.last[JOB].warm
    agent.see(Cooled(JOB, 1))
    assert [r.warm for r in agent.reports] == [False]
    agent.see(Cooled(JOB, 1))
    assert not agent.reports
    assert not agent.state.last[JOB].warm
    agent.letter(start(2)).see(Cooled(JOB, 1))
    assert agent.state.last[JOB].incarnation == 1, "nothing is said of a life that is over"


def test_nothing_waits_after_a_restart() -> None:
    agent = waiting().see(Boot(frozenset()))
    assert not agent.state.last[JOB].warm
