"""The cuts this node leads, and how its own part in any cut reaches the lead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from singularity.primitives.errors import NodeUnreachable
from singularity.primitives.messages import Start
from singularity.primitives.nodes import NodeId

from .barrier import Order, View
from .gang import CutRef, GangClient, Lead, LeadRecord
from .layout import Layout

_REMEMBER_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Led:
    lead: Lead
    path: Path
    deadline_s: float  # time.monotonic()
    patience_s: float


class Leads:
    """Thread-safe. `address_of` finds a peer's gang address; it may raise Unavailable."""

    def __init__(
        self,
        node: NodeId,
        layout: Layout,
        address_of: Callable[[NodeId], str],
        deadline_s: float,
    ) -> None:
        self.node, self._layout = node, layout
        self.address_of, self._deadline_s = address_of, deadline_s
        self._lock = threading.Lock()
        self._led: dict[CutRef, _Led] = {}
        for path in sorted(layout.records.glob("*.json")):
            ref, lead = Lead.load(path)  # members may still ask what an earlier life decided
            self._led[ref] = _Led(lead, path, time.monotonic() + deadline_s, deadline_s)

    def judge(self, ref: CutRef, view: View, secret: str) -> Order | None:
        """Answer a member. None: we do not lead this cut (yet), or it is none of theirs."""
        with self._lock:
            led = self._led.get(ref)
        if led is None or not led.lead.knows(secret):
            return None
        order = led.lead.hear(view)
        if time.monotonic() > led.deadline_s:
            seconds = f"{led.patience_s:.0f} s"
            order = led.lead.give_up(f"not all ranks were held and dumped within {seconds}")
        return order

    def join(self, start: Start, ref: CutRef, deadline_s: float | None = None) -> Membership:
        """Take part in a cut; the first node of the gang leads it, and gives it up after
        `deadline_s` where that is not what it gives every cut."""
        with self._lock:
            self._prune()
            if start.gang[0] == self.node and ref not in self._led:
                path = self._layout.record(ref.job, ref.incarnation, ref.cut)
                lead = Lead(path, LeadRecord(ref, start.gang, start.secret))
                patience_s = self._deadline_s if deadline_s is None else deadline_s
                self._led[ref] = _Led(lead, path, time.monotonic() + patience_s, patience_s)
        return Membership(self, start, ref)

    def _prune(self) -> None:
        """Forget cuts that nobody can be waiting for any more."""
        now_s = time.monotonic()
        for ref, led in list(self._led.items()):
            if now_s > led.deadline_s + _REMEMBER_S:
                del self._led[ref]
                led.path.unlink(missing_ok=True)


class Membership:
    """One node's line to the lead of one cut."""

    def __init__(self, leads: Leads, start: Start, ref: CutRef) -> None:
        self._leads, self._start, self._ref = leads, start, ref
        self._client: GangClient | None = None

    def ask(self, view: View) -> Order:
        """The lead's order. Raises Unavailable: ask again, wherever the lead is by then."""
        if self._start.gang[0] == self._leads.node:
            order = self._leads.judge(self._ref, view, self._start.secret)
            assert order is not None, self._ref
            return order
        if self._client is None:
            address = self._leads.address_of(self._start.gang[0])
            self._client = GangClient(address, self._start.secret)
        try:
            return self._client.ask(self._ref, view)
        except NodeUnreachable:
            self.close()
            raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
