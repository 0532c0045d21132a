"""The borrow ledger: devices that training gave for replicas, from then until it has grown back.

A loan is opened by the action that takes the devices (scheduler/plan.py) and is kept with the job
that lent them. It is over, piece by piece, as soon as the job lacks fewer devices than were lent:
because it has grown back, asks for fewer, or has ended. Oldest first, for devices have no names.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import TERMINAL, WAITING, Intent, Job, JobState
from .records import replace
from .service import Loan


@dataclass(frozen=True, slots=True)
class Repaid:
    """A loan, or a part of one, that is over. `price` is that part's."""

    loan: Loan
    until_s: float

    @property
    def device_s(self) -> float:
        return self.loan.devices * (self.until_s - self.loan.since_s)


def repaid(job: Job, now_s: float) -> tuple[Job, tuple[Repaid, ...]]:
    """The job without the loans that are over, and those."""
    lacks = _lacks(job) if job.loans else None
    over = sum(loan.devices for loan in job.loans) - lacks if lacks is not None else 0
    if over <= 0:
        return job, ()
    kept, ended = list[Loan](), list[Repaid]()
    for loan in job.loans:
        back = min(loan.devices, over)
        over -= back
        if back:
            ended.append(Repaid(_part(loan, back), now_s))
        if loan.devices > back:
            kept.append(_part(loan, loan.devices - back))
    return replace(job, loans=tuple(kept)), tuple(ended)


def _lacks(job: Job) -> int | None:
    """Devices that it wants and does not hold; None while that is about to change."""
    if job.state in TERMINAL or job.intent is not Intent.RUN:
        return 0
    if job.state in WAITING:
        return job.devices
    if job.state is JobState.RUNNING and not job.resizing:
        return max(0, job.devices - job.held)
    return None


def _part(loan: Loan, devices: int) -> Loan:
    return replace(loan, devices=devices, price=loan.price * devices / loan.devices)
