"""One node's agent: takes letters in order, lets react() judge, journals, acts, tells.

Three ways in: letters (pushed by Celery, pulled over HTTP when the heartbeat shows that some are
missing), what the hands have done, and time. Any of them may come twice, late or never.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from singularity.primitives.errors import LetterRefused, Rejected, Unauthenticated, Unavailable
from singularity.primitives.messages import (
    Admission,
    DeviceNote,
    Envelope,
    Heartbeat,
    Register,
    Report,
    Sealed,
)
from singularity.primitives.transport import VerifyKey

from .answers import Done
from .client import ControlPlane
from .core import Admitted, AgentState, Boot, Event, Forget, react
from .effects import Effect
from .executor import Executor
from .journal import Journal
from .runtime.lease import RunLease
from .sharing import Sharer

log = logging.getLogger(__name__)

_PULLS_WITHOUT_PUSH: Final = 5  # then the letter-box is taken to be stuck, and restarted
_RETRY_S: Final = 0.5
_LOOK_EVERY_S: Final = 15.0  # at the devices; it costs the driver some milliseconds each
_LOOK_SHARED_S: Final = 3.0  # while they are shared: somebody may be watching who slows whom


class Agent:
    """Thread-safe. `refresh` restarts the letter-box; `look` tells how the node's devices are."""

    def __init__(
        self,
        register: Register,
        control: ControlPlane,
        journal: Journal,
        lease: RunLease,
        refresh: Callable[[Admission], None],
        look: Callable[[Sequence[Sharer]], tuple[DeviceNote, ...]] = lambda _: (),
    ) -> None:
        self._register, self._control, self._journal = register, control, journal
        self._lease, self._refresh, self._look = lease, refresh, look
        self._looked_s = float("-inf")
        self._executor: Executor | None = None
        self._lock = threading.RLock()
        self._state: AgentState = journal.load(register.node)
        self._outbox: queue.Queue[Report] = queue.Queue()
        self._stop = threading.Event()
        self._admission: Admission | None = None
        self._verify: VerifyKey | None = None
        self._heard_s = time.monotonic()
        self._frozen = False
        self._pulls = 0

    # -- events ----------------------------------------------------------------------------------

    def deliver(self, sealed: Sealed) -> None:
        """Take one letter that was pushed. A bad one is dropped with a warning."""
        if (envelope := self._opened(sealed)) is not None:
            self.handle(envelope)

    def _opened(self, sealed: Sealed) -> Envelope | None:
        if self._verify is None:
            return None  # not admitted yet; it will be pulled
        try:
            return self._verify.open(sealed, self._register.node)
        except LetterRefused as error:
            log.warning("letter.refused", extra={"reason": error.detail})
            return None

    def done(self, done: Done, then: Callable[[], None]) -> None:
        """The hands' answer; `then` runs when it is journaled, before anybody is told."""
        self.handle(done, then)

    def handle(self, event: Event, then: Callable[[], None] | None = None) -> None:
        """Waits for a journal that can be written, so that nothing is lost: until then it has not
        happened. Not for the thread that beats, for nobody else fences the ranks."""
        while not self._stop.is_set():
            try:
                self._fold(event, then)
                return
            except Unavailable as error:
                log.error("not journaled", extra={"reason": error.detail})
                self._stop.wait(_RETRY_S)

    def _fold(self, event: Event, then: Callable[[], None] | None = None) -> None:
        """Raises Unavailable when it cannot be journaled; nothing of it has happened then."""
        with self._lock:
            state, effects, reports = react(self._state, event)
            if state != self._state:
                self._journal.save(state)
            if then is not None:
                then()
            self._state = state
            for effect in effects:
                self._perform(effect)
        for report in reports:
            log.info(
                "report",
                extra={"job": report.job, "phase": report.phase, "reason": report.reason},
            )
            self._outbox.put(report)

    def _perform(self, effect: Effect) -> None:
        assert self._executor is not None
        log.info("effect", extra={"effect": type(effect).__name__})
        self._executor.perform(effect)

    # -- life ------------------------------------------------------------------------------------

    def run(self, executor: Executor, stop: threading.Event) -> None:
        """Adopt what runs, then serve until `stop`. Ranks outlive the agent."""
        self._executor, self._stop = executor, stop
        live = executor.adopt(self._state.live)
        self._fold(Boot(live))
        if live:  # they ran unwatched, maybe past the lease: nothing may run until we are heard
            executor.freeze()
            self._frozen = True
        reporter = threading.Thread(target=self._tell, name="reporter", daemon=True)
        reporter.start()
        while not stop.is_set():
            try:
                wait_s = self._beat()
            except Unavailable as error:
                log.warning("no beat", extra={"reason": error.detail})
                wait_s = _RETRY_S
            except Unauthenticated as error:
                log.error("credential refused", extra={"reason": error.detail})
                self._forget_credential()
                wait_s = _RETRY_S * 4
            except Rejected as error:
                log.error("control plane says no", extra={"reason": error.detail})
                wait_s = _RETRY_S * 4
            self._fence()
            executor.tend()
            stop.wait(wait_s)

    def _devices(self, now_s: float) -> tuple[DeviceNote, ...] | None:
        """How the devices are, when it is time to say so again."""
        sharers = self._executor.sharers() if self._executor else []
        if now_s - self._looked_s < (_LOOK_SHARED_S if sharers else _LOOK_EVERY_S):
            return None
        self._looked_s = now_s
        return self._look(sharers)

    def _beat(self) -> float:
        """Register when needed, else one heartbeat. Returns seconds until the next."""
        if self._admission is None:
            self._admit()
        assert self._admission is not None
        state = self._state  # as journaled; without the lock, which waits for the disk
        began_s = time.monotonic()  # the lease runs from before the question, not the answer
        pulse = self._control.heartbeat(
            Heartbeat(
                node=state.node,
                epoch=state.epoch,
                acknowledged=state.seq,
                reports=tuple(state.last.values()),
                devices=self._devices(began_s),
            )
        )
        if not pulse.admitted:
            log.warning("declared lost; registering anew")
            self._admission = None
            self._looked_s = float("-inf")
            return 0.0
        self._heard(began_s, self._admission)
        if pulse.forget:
            self._fold(Forget(pulse.forget))
        if pulse.written > self._state.seq:
            self._pull()
        else:
            self._pulls = 0
        return self._admission.heartbeat_every_s

    def _admit(self) -> None:
        """Present ourselves. A new epoch means that nothing of ours counts any more: every rank
        is dead before the answer is acted on."""
        register = self._register.model_copy(update={"epoch": self._state.epoch})
        began_s = time.monotonic()
        admission = self._control.register(register)
        if admission.token is not None:
            self._journal.remember("token", admission.token)
            self._control.use(admission.token)
        self._verify = VerifyKey(admission.verify_key)
        if admission.epoch != self._state.epoch:
            assert self._executor is not None
            self._executor.kill_all()
            self._fold(Admitted(admission.epoch))
        self._admission = admission
        self._heard(began_s, admission)
        self._refresh(admission)
        log.info("admitted", extra={"epoch": admission.epoch})

    def _pull(self) -> None:
        """Fetch what Celery has not brought (yet)."""
        state = self._state
        for letter in self._control.letters(state.epoch, state.seq):
            if (envelope := self._opened(letter)) is not None:
                self._fold(envelope)
        self._pulls += 1
        if self._pulls >= _PULLS_WITHOUT_PUSH and self._admission is not None:
            log.warning("letters come by pull only; restarting the letter-box")
            self._refresh(self._admission)
            self._pulls = 0

    def _forget_credential(self) -> None:
        """Our token is not accepted: join again as at the first time."""
        self._admission = None
        join = self._journal.recall("join")
        if join is not None:
            self._control.use(join)

    def _fence(self) -> None:
        """No answer for the length of the lease: another life of our jobs may start soon, so ours
        must not run. Frozen, not killed: if nobody declared us lost, nothing is lost."""
        lease_s = self._admission.lease_s if self._admission else None
        if lease_s is None or self._frozen or time.monotonic() - self._heard_s < lease_s:
            return
        log.warning("lease expired: ranks frozen", extra={"lease_s": lease_s})
        assert self._executor is not None
        self._executor.freeze()
        self._frozen = True

    def _heard(self, began_s: float, admission: Admission) -> None:
        """The lease runs from the question. Whoever was stopped because it was over goes on: by us,
        or by the supervisors of ranks, if we were dead or slow."""
        self._heard_s = began_s
        late = self._lease.extend(began_s + admission.lease_s)
        if self._frozen or late:
            assert self._executor is not None
            self._executor.thaw()
            self._frozen = False
            log.info("contact again: ranks thawed")

    def _tell(self) -> None:
        """Send reports as they come. What is lost here is repeated by the heartbeat."""
        while not self._stop.is_set():
            with suppress(queue.Empty):
                reports = [self._outbox.get(timeout=0.2)]
                while not self._outbox.empty():
                    reports.append(self._outbox.get_nowait())
                try:
                    forget = self._control.report(reports)
                except (Unavailable, Rejected) as error:
                    log.warning("report not taken", extra={"reason": error.detail})
                    continue
                if forget:
                    self.handle(Forget(forget))
