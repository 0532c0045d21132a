"""Traces are read as their owners wrote them, and what is wrong with one is said."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from singularity.primitives.errors import InvalidSpec, NotFound, SingularityError, Unplaceable
from singularity.primitives.model import Tier
from singularity.scheduler.sim.pollux import ADAPTIVE, hours
from singularity.scheduler.sim.traces import (
    Machines,
    Reading,
    fitted,
    read,
    read_fleet,
    tier_of,
)

PHILLY = """timestamp,duration,num_gpus,gpu_time,cluster
2017-10-09 07:01:55,66.0,1,66.0,11cb48
2017-10-09 06:13:03,2951.0,8,23608.0,6214e9
2017-10-09 06:13:33,10.0,64,640.0,6214e9
"""
OPENB = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time
a,1,1,0,0,,LS,0,10
b,1,1,1,460,,LS,5,105
c,1,1,8,1000,V100|A10,BE,7,57
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "simulation.yaml"


def file(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_philly_begins_with_its_first_job_and_tiers_are_by_name(tmp_path: Path) -> None:
    trace = read(file(tmp_path, PHILLY), Reading(widest=32))
    assert [(j.at_s, j.work_s, j.devices) for j in trace.jobs] == [(0, 2951, 8), (2932, 66, 1)]
    assert [j.tier for j in trace.jobs] == [tier_of(j.name) for j in trace.jobs]
    assert trace.notes == ("1 jobs wanted more than 32 devices",)


def test_tiers_by_name_are_as_many_as_they_should_be() -> None:
    found = [tier_of(f"philly-{n:05}") for n in range(10_000)]
    assert found.count(Tier.PREMIUM) == pytest.approx(1000, rel=0.1)
    assert found.count(Tier.STANDARD) == pytest.approx(3000, rel=0.1)


def test_pods_of_openb_take_the_type_that_the_fleet_has(tmp_path: Path) -> None:
    trace = read(file(tmp_path, OPENB))
    assert len(trace.notes) == 2 and [j.tier for j in trace.jobs] == [Tier.PREMIUM, Tier.BASIC]
    found = fitted(trace, [Machines(4, 8, "A10"), Machines(1, 8, "T4", cluster="t")])
    assert [j.device for j in found.jobs] == ["A10", "A10"]


def test_applications_of_pollux_are_elastic(tmp_path: Path) -> None:
    text = "name,time,application,num_replicas,batch_size\nx-0,107,cifar10,6,2048\n"
    (job,) = read(file(tmp_path, text)).jobs
    assert (job.devices, job.devices_min) == (6, 1)
    assert 0.23 < job.work_s / 3600 < 0.35  # between what it takes on 8 and on 4
    assert job.speed(6) == 1.0 and job.speed(4) == pytest.approx(job.work_s / 3600 / 0.35)
    (free,) = read(file(tmp_path, text), Reading(adaptive=True)).jobs
    assert free.devices == 16 and free.work_s < job.work_s
    assert job.work_s / free.work_s == pytest.approx(1 / free.speed(6) * 1.0, rel=0.1)


def test_a_trace_of_ones_own(tmp_path: Path) -> None:
    trace = read(EXAMPLE)
    assert len(trace.jobs) == 22 and sum(m.nodes for m in trace.fleet) == 6
    assert trace.costs["cut_s"] == 15 and trace.jobs[0].devices_min == 4
    assert trace.jobs[0].speed(8) == pytest.approx(0.5**0.9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "it has the columns a, b"),
        ("", "it has the columns none"),
        ("timestamp,duration,num_gpus\n", "has no job"),
        ("timestamp,duration,num_gpus\nyesterday,1,1\n", "line 2: 'yesterday'"),
        ("timestamp,duration,num_gpus\n2017-10-09 07:01:55,-3,1\n", "line 2: duration is '-3'"),
        ("time,application,num_replicas\n1,chess,2\n", "'chess' is not one of"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        read(file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fleet: []\njobs: []\n", "fleet"),
        ("fleet: [{nodes: 1}]\njobs: [{name: a}]\n", "jobs.0.hours"),
        ("fleet: [{nodes: 1}]\njobs: [{name: a, hours: 1, tier: gold}]\n", "no tier"),
        ("fleet: [{nodes: 1, gpus: 2}]\njobs: []\n", "fleet.0.gpus"),
        ("fleet: [", "is no YAML"),
    ],
)
def test_what_is_wrong_with_yaml_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        read(file(tmp_path, text, "own.yaml"))


@pytest.mark.parametrize(
    ("fleet", "says"),
    [
        ("", "names no machines"),
        ("2x8:t4", "no node has V100|A10"),
        ("1x4:A10,1x4:A10", "no cluster has more than 4; --widest 4"),
    ],
)
def test_a_job_that_could_never_run_is_named(tmp_path: Path, fleet: str, says: str) -> None:
    trace = read(file(tmp_path, OPENB))
    with pytest.raises(Unplaceable) as found:
        fitted(trace, read_fleet(fleet) if fleet else ())
    assert says in found.value.detail


def test_fleets_are_written_or_read(tmp_path: Path) -> None:
    two = read_fleet("60x8, 4x4:t4")
    assert [(m.nodes, m.devices, m.device, m.cluster) for m in two] == [
        (60, 8, "gpu", "c0"),
        (4, 4, "t4", "c1"),
    ]
    listed = file(tmp_path, "sn,gpu,model\na,2,P100\nb,2,P100\nc,0,\n", "nodes.csv")
    assert read_fleet(str(listed)) == (Machines(2, 2, "P100", cluster="P100"),)
    for wrong in ("60", "0x8", "axb", str(file(tmp_path, "sn,cpu\n"))):
        with pytest.raises(SingularityError):
            read_fleet(wrong)
    with pytest.raises(NotFound):
        read_fleet("nowhere.csv")


def test_a_load_of_servegen_is_a_service(tmp_path: Path) -> None:
    text = "window_start_s,requests_per_s,dispersion\n0,100,4\n600,300,8\n"
    trace = read(file(tmp_path, text))
    (service,) = trace.services
    assert trace.jobs == () and service.rates.rates == (100.0, 300.0) and service.wait_s == 5.0
    assert service.rates.seconds == 1200 and "5.11 requests/s" in trace.notes[0]
    assert fitted(trace, [Machines(1, 8, "h100")]).services[0].device == "h100"
    uneven = text.replace("600,300", "700,300") + "1200,1,1\n"
    with pytest.raises(InvalidSpec, match="equal steps"):
        read(file(tmp_path, uneven))
    with pytest.raises(InvalidSpec, match="no request in it"):
        read(file(tmp_path, text.replace("100,4", "0,4").replace("300,8", "0,8")))


NAMED = {"bert": (6, 8, 12, 16), "cifar10": (6, 8, 12, 16), "deepspeech2": (6, 8, 12)}
NAMED |= {"imagenet": (24, 32, 48), "yolov3": (4,)}


@pytest.mark.parametrize("application", NAMED)
def test_sizes_that_the_workloads_of_pollux_name_come_out_of_the_curves(application: str) -> None:
    curve = ADAPTIVE[application]
    for gpus in NAMED[application]:
        assert 0.5 < hours(curve, 1) / hours(curve, gpus) / gpus < 0.82, gpus
    assert all(more <= less for (_, less), (_, more) in pairwise(curve))
