"""The loops beside the doors: schedule, relay, watch, tidy. Each may run in many processes; one of
each is active, by lease. Each survives the loss of Postgres and broker by trying again."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from singularity.primitives.clock import Clock, SystemClock
from singularity.primitives.errors import BrokerDown, ImageCorrupt, NotLeader
from singularity.primitives.transport import Letterbox
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Plan, Verb
from singularity.scheduler.policy import Policy
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check
from singularity.scheduler.vigil import Vigil, observe, silent

from .applier import SqlLedger
from .brokers import BrokerUsers
from .database import LETTERS, Bell, make_engine, wake
from .enrolment import broker_passwords
from .estimates import Estimates, Noter
from .forgetting import forget, forget_strangers
from .lease import Lease
from .outbox import BATCH, relay
from .settings import Settings
from .tidy import open_janitor

log = logging.getLogger(__name__)

_TICK_S: Final = 0.5  # with no wake-up at all
_BREATH_S: Final = 0.005  # between two rounds, however many wake-ups there are
_REST: Final = 0.25  # of a round's time on the core: some is for others, as when it waits for them
_RETRY_S: Final = 0.5
_RENEW_S: Final = 1.0
_FORGET_EVERY_S: Final = 600.0
_USERS_EVERY_S: Final = 15.0  # a broker without a file for them loses its users when it restarts


def run_schedule(settings: Settings, stop: threading.Event) -> None:
    """Snapshot, decide, check, commit; on every wake-up and at least twice a second."""
    engine = make_engine(settings)
    lease = Lease(engine, "schedule", _holder())
    ledger, clock = SqlLedger(engine, lease), SystemClock()
    policy, estimates = settings.policy(), Noter(Estimates(engine), stop)
    bell = Bell(settings, stop)

    def tick() -> None:
        began_s = time.thread_time()
        outcome = round_of_scheduling(ledger, policy, clock, estimates)
        stop.wait(min(_REST * (time.thread_time() - began_s), _TICK_S))
        if not outcome.follows:
            bell.wait(_TICK_S)

    _lead(lease, tick, stop)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a round: the number of actions carried out, and whether more may follow from them, which
    is decided at once. From jobs that start nothing does: what they left idle nobody could use."""

    done: int
    follows: bool


def round_of_scheduling(
    ledger: SqlLedger, policy: Policy, clock: Clock, estimates: Estimates | Noter | None = None
) -> Outcome:
    """One round."""
    snapshot = ledger.snapshot(clock.now_s())
    plan = decide(snapshot, policy)
    if plan.orders:
        ledger.carry_out(plan.orders, clock.now_s())
        for order in plan.orders:
            log.info("order", extra={"kind": type(order).__name__.lower(), **asdict(order)})
    done = _commit(ledger, snapshot, plan, clock) if plan.actions or plan.changes else 0
    if estimates is not None:
        estimates.note(snapshot, plan, policy)
    started = all(action.verb is Verb.RESUME for action in plan.actions) and not plan.changes
    return Outcome(done, follows=done > 0 and not (started and done == len(plan.actions)))


def _commit(ledger: SqlLedger, snapshot: Snapshot, plan: Plan, clock: Clock) -> int:
    faults = check(snapshot, plan)
    assert not faults, faults
    rejected = ledger.commit(plan, clock.now_s())
    for action in plan.actions:
        outcome = rejected.get(action.job, "")
        name = "action.rejected" if outcome else "action"
        log.info(
            name,
            extra={"job": action.job, "verb": action.verb, "reason": action.reason, "why": outcome},
        )
    for change in plan.changes:
        if change.event:
            told = {"service": change.service.id, "reason": change.reason}
            log.info(f"service.{change.event}", extra=told)
    return len(plan.actions) - len(rejected)


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Publish due letters, in node order, as soon as they are written."""
    engine = make_engine(settings)
    box = Letterbox(settings.broker_url)
    key = settings.signing_key()
    clock, bell = SystemClock(), Bell(settings, stop, LETTERS)
    look_s = 0.0
    users = BrokerUsers(settings.broker_url, key.mark, wanted=settings.broker_users)

    def tick() -> None:
        nonlocal look_s
        if time.monotonic() >= look_s:
            look_s = time.monotonic() + _USERS_EVERY_S
            if made := users.keep(lambda: broker_passwords(engine, key)):
                log.info("users of the broker set right", extra={"count": made})
        try:
            if relay(engine, box, key, clock.now_s()) < BATCH:  # what comes now rings
                bell.wait(_TICK_S)
        except BrokerDown as error:
            log.warning("broker down", extra={"reason": error.detail})
            stop.wait(_RETRY_S)

    _lead(Lease(engine, "relay", _holder()), tick, stop)


def run_watch(settings: Settings, stop: threading.Event) -> None:
    """Declare silent nodes lost. What happens then is the scheduler's business."""
    engine = make_engine(settings)
    ledger, clock = SqlLedger(engine), SystemClock()
    policy = settings.policy()
    vigil = Vigil()

    def tick() -> None:
        nonlocal vigil
        now_s = clock.now_s()
        heard_s = {n.id: n.heard_s for n in ledger.nodes().values() if n.epoch and not n.lost}
        vigil = observe(vigil, heard_s, now_s)
        if found := silent(vigil, policy.node_lost_after_s):
            for node in ledger.lose(found, now_s):
                log.warning("node lost", extra={"node": node})
            wake(engine)
        stop.wait(_RENEW_S / 2)

    _lead(Lease(engine, "watch", _holder()), tick, stop)


def run_tidy(settings: Settings, stop: threading.Event) -> None:
    """Free what checkpoints occupy that no job needs any more, and what jobs do that ended long
    ago."""
    engine = make_engine(settings)
    lease, clock = Lease(engine, "tidy", _holder()), SystemClock()
    janitor = open_janitor(SqlLedger(engine, lease), settings)
    kept_s = settings.policy().history_kept_s
    due_s = forget_s = 0.0

    def tick() -> None:
        nonlocal due_s, forget_s
        if time.monotonic() >= forget_s:
            try:
                gone = forget(engine, settings.volume, clock.now_s() - kept_s, lease.guard)
                forget_strangers(engine, clock.now_s(), kept_s, lease.guard)
            except OSError as error:
                log.warning("nothing is forgotten", extra={"reason": str(error)})
                gone = 0
            if gone:
                log.info("forgotten", extra={"jobs": gone})
            forget_s = time.monotonic() + (_TICK_S if gone else _FORGET_EVERY_S)
        if time.monotonic() < due_s:
            stop.wait(_TICK_S)
            return
        due_s = time.monotonic() + settings.tidy_every_s
        try:
            found = janitor.round(clock.now_s())
        except (OSError, ImageCorrupt) as error:
            log.warning("nothing is freed", extra={"reason": str(error)})
        else:
            if found.dropped or found.swept.deleted:
                freed = {"cuts": found.dropped, "bytes": found.swept.freed_bytes}
                log.info("freed", extra=freed | {"chunks": found.swept.deleted})

    _lead(lease, tick, stop)


def _lead(lease: Lease, tick: Callable[[], None], stop: threading.Event) -> None:
    """Run `tick` again and again while leading; stand by otherwise."""
    renewed_s, leads = 0.0, False
    while not stop.is_set():
        try:
            if time.monotonic() - renewed_s > _RENEW_S:
                led, leads = leads, lease.hold()
                renewed_s = time.monotonic()
                if leads and not led:
                    log.info("leading", extra={"lease": lease.name, "epoch": lease.epoch})
            if leads:
                tick()
                stop.wait(_BREATH_S)
            else:
                stop.wait(_RETRY_S)
                renewed_s = 0.0
        except NotLeader as error:
            log.warning(error.detail)
            leads, renewed_s = False, 0.0
        except DBAPIError as error:
            log.warning("database away", extra={"reason": str(error.orig).strip()})
            renewed_s = 0.0
            stop.wait(_RETRY_S)
    with suppress(DBAPIError):
        lease.release()


def _holder() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"
