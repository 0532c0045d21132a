"""How long Kueue's workloads take at the very least."""

from __future__ import annotations

from bench.kueue_load import Load, Queue, Work, document, ideal_s, load
from singularity.api.schemas import read_job

CONFIG = {
    "cohorts": [
        {
            "className": "cohort",
            "count": 2,
            "queuesSets": [
                {
                    "className": "cq",
                    "count": 3,
                    "nominalQuota": 4,
                    "borrowingLimit": 2,
                    "workloadsSets": [
                        {
                            "count": 10,
                            "creationIntervalMs": 100,
                            "workloads": [
                                {
                                    "className": "small",
                                    "runtimeMs": 200,
                                    "priority": 50,
                                    "request": 1,
                                }
                            ],
                        }
                    ],
                }
            ],
        }
    ]
}


def works(*given: tuple[float, float, int, int], borrow: int = 100) -> Load:
    """(created, runs for, priority, devices) in a queue of 4 devices, beside one that is empty."""
    queues = Queue("q", "c", 4, borrow), Queue("idle", "c", 4, borrow)
    made = [Work(f"w{i}", "w", queues[0], *each) for i, each in enumerate(given)]
    return Load(queues, tuple(sorted(made, key=lambda w: w.at_s)))


def test_every_queue_has_its_own_works_one_after_each_interval() -> None:
    found = load(CONFIG)
    assert len(found.queues) == 6 and len(found.works) == 60
    assert found.cohorts == {"cohort-0": 12, "cohort-1": 12}
    mine = [w.at_s for w in found.works if w.queue == found.queues[0]]
    assert [round(at_s, 3) for at_s in mine] == [round(0.1 * n, 3) for n in range(1, 11)]
    assert len({w.name for w in found.works}) == 60
    assert len(load(CONFIG, 0.5).works) == 30


def test_with_room_for_all_it_is_the_last_to_come_and_its_time() -> None:
    assert round(ideal_s(load(CONFIG)), 6) == 1.2


def test_what_does_not_fit_waits_and_lets_others_pass() -> None:
    assert ideal_s(works((0, 10, 1, 6), (1, 10, 1, 6))) == 20.0
    assert ideal_s(works((0, 10, 1, 6), (1, 10, 1, 6), (2, 5, 0, 2))) == 20.0


def test_the_more_urgent_comes_first_and_stops_nobody() -> None:
    late_and_urgent = works((0, 10, 1, 8), (1, 1, 1, 8), (2, 7, 9, 8))
    assert ideal_s(late_and_urgent) == 18.0


def test_nobody_borrows_more_than_it_may() -> None:
    assert ideal_s(works((0, 10, 1, 4), (0, 10, 1, 4))) == 10.0
    assert ideal_s(works((0, 10, 1, 4), (0, 10, 1, 4), borrow=2)) == 20.0


def test_each_work_is_a_job_that_can_be_submitted() -> None:
    found = load(CONFIG)
    job = read_job(document(found.works[0], found.tiers))
    assert (job.project, job.devices, job.tier) == (found.works[0].queue.name, "cpu:1", "premium")
