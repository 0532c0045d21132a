"""Traces of real clusters, and those that people write: jobs that arrive, and the machines.

A file is known by its columns: Philly (`timestamp, duration, num_gpus`), the workloads of Pollux
(`time, application, num_replicas`), pods and nodes of openb, the load of a service of ServeGen
(`window_start_s, requests_per_s, dispersion`); or by its ending .yaml, see
examples/simulation.yaml.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from singularity.primitives.errors import InvalidSpec, NotFound, Unplaceable
from singularity.primitives.model import Tier

from .loads import Rates
from .pollux import ADAPTIVE, FIXED, Curve, hours

Row = Mapping[str, str]

# B6: of its 128 devices each serves 5 of the 195.84 requests/s that m-large has on average.
_SERVEGEN_PART: Final = 5.0 / 195.84
_QOS: Final = {"LS": Tier.PREMIUM, "Guaranteed": Tier.STANDARD, "Burstable": Tier.STANDARD}
_TIERS: Final = ((10, Tier.PREMIUM), (40, Tier.STANDARD), (100, Tier.BASIC))  # of a hundred, up to


@dataclass(frozen=True, slots=True)
class Machines:
    """`nodes` alike of one cluster."""

    nodes: int
    devices: int
    device: str = "gpu"
    cluster: str = "c0"
    region: str = "r0"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One job: `at_s` after the trace begins it wants `devices`, on which it takes `work_s`; on n
    of N it is (n / N) ** scaling as fast, or as its `curve` says. `device` is the first of several
    that the fleet has, "A|B", and "" what it has most of."""

    name: str
    at_s: float
    work_s: float
    devices: int
    devices_min: int
    device: str = ""
    tier: Tier = Tier.BASIC
    project: str = "default"
    scaling: float = 1.0
    curve: Curve = ()

    def speed(self, held: float) -> float:
        """Of its full one, on `held` devices."""
        if self.curve and held:
            return self.work_s / (3600.0 * hours(self.curve, min(held, self.devices)))
        return min(1.0, held / self.devices) ** self.scaling if held else 0.0


@dataclass(frozen=True, slots=True)
class Serves:
    """A service: requests that come from the beginning on, and what it may have for them.

    per_replica  requests a second that one replica, of one device, serves
    most         replicas; 0: as many as there are devices where it may be
    wait_s       nobody shall wait longer for a replica, but `1 - kept` of all
    region       where it is served; "": anywhere
    """

    name: str
    rates: Rates
    per_replica: float
    least: int = 4
    most: int = 0
    wait_s: float = 5.0
    kept: float = 0.9999
    device: str = ""
    region: str = ""
    tier: Tier = Tier.PREMIUM
    project: str = "default"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs in the order in which they arrive, and services. `fleet` is () where the file names no
    machines, and `notes` say what was left out or assumed."""

    name: str
    jobs: tuple[Arrival, ...]
    fleet: tuple[Machines, ...] = ()
    notes: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    services: tuple[Serves, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What to make of a trace: only the first `most` jobs that want no more than `widest` devices;
    `elastic` ones run on any number of devices, down to one, `rigid` ones on all or none, and
    `adaptive` ones, of the workloads of Pollux, also on more than their owner named, with other
    batches. Tiers are `hashed`, by names, where the trace knows others; or all of one `tier`."""

    most: int | None = None
    widest: int | None = None
    elastic: bool = False
    rigid: bool = False
    hashed: bool = False
    adaptive: bool = False
    tier: Tier | None = None


def tier_of(name: str) -> Tier:
    """Premium for 10 of a hundred, standard for 30, basic for 60."""
    found = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return next(tier for below, tier in _TIERS if found < below)


def read(path: Path, how: Reading = Reading()) -> Trace:
    """Raises NotFound, or InvalidSpec that names the file, the line and what is wrong there."""
    if not path.is_file():
        raise NotFound(f"there is no trace {path}")
    if path.suffix in (".yaml", ".yml"):
        from .documents import read_own

        return _chosen(read_own(path), how)
    columns, rows = _rows(path)
    if set(_SERVEGEN) <= set(columns):
        return _servegen(path, rows)
    for wanted, reader in _READERS.items():
        if set(wanted) <= set(columns):
            jobs, notes = reader(path, rows)
            if how.adaptive and "application" in columns:
                jobs = [_adaptive(j, r["application"]) for j, r in zip(jobs, rows, strict=True)]
            if "num_gpus" in columns or "application" in columns or how.hashed:
                jobs = [replace(job, tier=tier_of(job.name)) for job in jobs]
            return _chosen(Trace(path.stem, tuple(jobs), notes=notes), how)
    known = "; ".join(", ".join(wanted) for wanted in (*_READERS, _SERVEGEN))
    raise InvalidSpec(
        f"{path} is no trace that is known: it has the columns {', '.join(columns) or 'none'};"
        f" known are those with {known}"
    )


def _chosen(trace: Trace, how: Reading) -> Trace:
    jobs = sorted(trace.jobs, key=lambda job: (job.at_s, job.name))
    notes = list(trace.notes)
    if how.widest is not None:
        kept = [job for job in jobs if job.devices <= how.widest]
        if len(kept) < len(jobs):
            notes.append(f"{len(jobs) - len(kept)} jobs wanted more than {how.widest} devices")
        jobs = kept
    jobs = jobs[: how.most]
    if not jobs and not trace.services:
        raise InvalidSpec(f"the trace {trace.name} has no job" + (", as it is read" * bool(notes)))
    first_s = jobs[0].at_s if jobs and not trace.services else 0.0
    jobs = [replace(job, at_s=job.at_s - first_s) for job in jobs]
    if how.elastic:
        jobs = [replace(job, devices_min=1) for job in jobs]
    elif how.rigid:
        jobs = [replace(job, devices_min=job.devices) for job in jobs]
    if how.tier is not None:
        jobs = [replace(job, tier=how.tier) for job in jobs]
    return replace(trace, jobs=tuple(jobs), notes=tuple(notes))


# -- machines --------------------------------------------------------------------------------------


def read_fleet(text: str) -> tuple[Machines, ...]:
    """`60x8`, `60x8:h100`, several with commas, each a cluster of its own; or openb's list of
    nodes. Raises InvalidSpec."""
    if (path := Path(text)).suffix == ".csv":
        columns, rows = _rows(path)
        if missing := {"sn", "gpu", "model"} - set(columns):
            lacks = ", ".join(sorted(missing))
            raise InvalidSpec(f"{path} is no list of nodes: it has no column {lacks}")
        alike: dict[tuple[str, int], int] = {}
        for line, row in enumerate(rows, 2):
            kind = row["model"], int(_number(path, line, row, "gpu"))
            alike[kind] = alike.get(kind, 0) + 1
        return tuple(
            Machines(nodes, devices, model, cluster=model)
            for (model, devices), nodes in sorted(alike.items())
            if devices
        )
    found = []
    for number, part in enumerate(text.split(",")):
        sizes, _, device = part.strip().partition(":")
        nodes, _, devices = sizes.partition("x")
        if not (nodes.isdigit() and devices.isdigit() and int(nodes) and int(devices)):
            raise InvalidSpec(f"{part!r} is no fleet; write 60x8, or 60x8:h100, or a list of nodes")
        found.append(Machines(int(nodes), int(devices), device or "gpu", cluster=f"c{number}"))
    return tuple(found)


def fitted(trace: Trace, fleet: Iterable[Machines]) -> Trace:
    """The trace with a type of device for each job that this fleet has. Raises Unplaceable for the
    first job that could not run if the fleet were empty."""
    room: dict[str, dict[str, int]] = {}
    for machines in fleet:
        clusters = room.setdefault(machines.device, {})
        there = clusters.get(machines.cluster, 0)
        clusters[machines.cluster] = there + machines.nodes * machines.devices
    if not room:
        raise Unplaceable(f"the trace {trace.name} names no machines; say --fleet 60x8")
    usual = max(sorted(room), key=lambda device: sum(room[device].values()))
    services = [
        s if s.device in room else _refitted(s, usual, sorted(room)) for s in trace.services
    ]
    jobs = []
    for job in trace.jobs:
        asked = job.device.split("|") if job.device else [usual]
        if (device := next((d for d in asked if d in room), None)) is None:
            known = ", ".join(sorted(room))
            raise Unplaceable(f"no node has {job.device} devices for {job.name}; there are {known}")
        if job.devices_min > (most := max(room[device].values())):
            raise Unplaceable(
                f"{job.name} wants {job.devices_min} {device} and no cluster has more than {most};"
                f" --widest {most} leaves such jobs out"
            )
        jobs.append(replace(job, device=device))
    return replace(trace, jobs=tuple(jobs), services=tuple(services))


def _refitted(service: Serves, usual: str, known: list[str]) -> Serves:
    if not service.device:
        return replace(service, device=usual)
    raise Unplaceable(
        f"no node has {service.device} devices for {service.name}; there are {', '.join(known)}"
    )


# -- formats ---------------------------------------------------------------------------------------


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            return list(reader.fieldnames or ()), list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidSpec(f"{path} is no CSV: {error}") from error


def _number(path: Path, line: int, row: Row, column: str) -> float:
    text = row.get(column) or ""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise InvalidSpec(f"{path} line {line}: {column} is {text!r}, and must be a number >= 0")
    return found


def _philly(path: Path, rows: list[Row]) -> tuple[list[Arrival], tuple[str, ...]]:
    found = []
    for line, row in enumerate(rows, 2):
        try:
            at = datetime.fromisoformat(row["timestamp"])
        except ValueError:
            text = row["timestamp"]
            raise InvalidSpec(f"{path} line {line}: {text!r} is no timestamp") from None
        found.append((at, line, row))
    found.sort(key=lambda each: each[0])  # stable: of one second, in the order of the file
    jobs = []
    for number, (at, line, row) in enumerate(found):
        devices = max(1, int(_number(path, line, row, "num_gpus")))
        work_s = max(1.0, _number(path, line, row, "duration"))
        at_s = (at - found[0][0]).total_seconds()
        project = row.get("cluster") or "default"
        name = f"philly-{number:05}"
        jobs.append(Arrival(name, at_s, work_s, devices, devices, project=project))
    return jobs, ()


def _pollux(path: Path, rows: list[Row]) -> tuple[list[Arrival], tuple[str, ...]]:
    jobs = []
    for line, row in enumerate(rows, 2):
        what = row["application"]
        if what not in ADAPTIVE:
            known = ", ".join(ADAPTIVE)
            raise InvalidSpec(f"{path} line {line}: {what!r} is not one of {known}")
        devices = max(1, int(_number(path, line, row, "num_replicas")))
        batch = int(_number(path, line, row, "batch_size")) if row.get("batch_size") else 0
        curve = FIXED.get((what, batch), ADAPTIVE[what])
        name, at_s = row.get("name") or f"{what}-{line}", _number(path, line, row, "time")
        work_s = 3600.0 * hours(curve, devices)
        jobs.append(Arrival(name, at_s, work_s, devices, 1, curve=curve))
    return jobs, ("hours of each application are those of the artifact, see sim/pollux.py",)


def _adaptive(job: Arrival, application: str) -> Arrival:
    """It may use as many devices as make it faster."""
    curve = ADAPTIVE[application]
    most, least_h = curve[-1]
    return replace(job, devices=most, work_s=3600.0 * least_h, curve=curve)


def _openb(path: Path, rows: list[Row]) -> tuple[list[Arrival], tuple[str, ...]]:
    jobs, plain, shares = [], 0, 0
    for line, row in enumerate(rows, 2):
        devices = int(_number(path, line, row, "num_gpu"))
        if not devices:
            plain += 1
            continue
        shares += _number(path, line, row, "gpu_milli") < 1000.0
        began_s = _number(path, line, row, "creation_time")
        work_s = max(1.0, _number(path, line, row, "deletion_time") - began_s)
        device = row.get("gpu_spec") or ""
        tier = _QOS.get(row.get("qos") or "", Tier.BASIC)
        name = row.get("name") or f"pod-{line}"
        jobs.append(Arrival(name, began_s, work_s, devices, devices, device, tier))
    notes = []
    if plain:
        notes.append(f"{plain} pods want no device and were left out")
    if shares:
        notes.append(f"{shares} pods want a part of a device and are given a whole one")
    return jobs, tuple(notes)


def _servegen(path: Path, rows: list[Row]) -> Trace:
    """One service, whose devices serve as large a part of its mean as those of B6."""
    starts, rates, dispersion = [], [], []
    for line, row in enumerate(rows, 2):
        starts.append(int(_number(path, line, row, "window_start_s")))
        rates.append(_number(path, line, row, "requests_per_s"))
        dispersion.append(_number(path, line, row, "dispersion"))
    window_s = starts[1] - starts[0] if len(starts) > 1 else 0
    if window_s < 1 or starts != list(range(0, window_s * len(starts), window_s)):
        raise InvalidSpec(f"{path}: window_start_s must begin with 0 and grow by equal steps")
    found = Rates(window_s, tuple(rates), tuple(dispersion))
    if not found.mean:
        raise InvalidSpec(f"{path}: there is no request in it")
    carries = found.mean * _SERVEGEN_PART
    note = f"a device is taken to serve {carries:.3g} requests/s, of {found.mean:.4g} on average"
    service = Serves(path.stem, found, carries)
    return Trace(path.stem, (), notes=(note,), services=(service,))


Reader = Callable[[Path, list[Row]], tuple[list[Arrival], tuple[str, ...]]]
_SERVEGEN: Final = ("window_start_s", "requests_per_s", "dispersion")
_READERS: Final[Mapping[tuple[str, ...], Reader]] = {
    ("timestamp", "duration", "num_gpus"): _philly,
    ("time", "application", "num_replicas"): _pollux,
    ("num_gpu", "gpu_milli", "creation_time", "deletion_time"): _openb,
}
