"""What was written to nodes and is not acknowledged: due letters, and when they are due again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, Engine, Text, cast, select

from singularity.primitives.errors import BrokerDown
from singularity.primitives.messages import Envelope
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import Letterbox, SigningKey

from . import tables as t
from .bulk import update_rows
from .database import unsynced

_BATCH: Final = 500
_AGAIN_S: Final = 2.0  # doubled with each attempt; agents also pull, so this is a second chance
_DOUBLINGS_MOST: Final = 6


@dataclass(frozen=True, slots=True)
class _Due:
    """A letter to publish, and how often it was before."""

    envelope: Envelope
    attempts: int

    @property
    def node(self) -> NodeId:
        return self.envelope.node


def relay(engine: Engine, box: Letterbox, key: SigningKey, now_s: float) -> int:
    """Publish the letters that are due; returns how many.

    Marked first, published after, with no transaction open: a broker that hangs must not keep
    rows locked that heartbeats and the scheduler wait for. A crash in between loses nothing, the
    letters are due again soon. Raises BrokerDown; what was not published is due again at once.
    """
    taken = _take(engine, now_s)
    sent = 0
    for node, letters in groupby(taken, key=lambda due: due.node):
        sealed = [key.seal(due.envelope) for due in letters]
        try:
            box.publish(node, sealed)
        except BrokerDown:
            with engine.begin() as db:
                _mark(db, [_row(due, now_s, due.attempts) for due in taken[sent:]])
            raise
        sent += len(sealed)
    return sent


def _take(engine: Engine, now_s: float) -> list[_Due]:
    """Due letters by node and place in its log, marked as sent. Rows that a heartbeat is just
    about to delete are left to it."""
    out, log = t.outbox, t.node_log
    same = (log.c.node == out.c.node) & (log.c.epoch == out.c.epoch) & (log.c.seq == out.c.seq)
    query = (
        select(cast(log.c.body, Text), out.c.attempts)
        .join(log, same)
        .where(out.c.due_at_s <= now_s)
        .order_by(out.c.node, out.c.epoch, out.c.seq)
        .limit(_BATCH)
        .with_for_update(of=out, skip_locked=True)
    )
    with engine.begin() as db:
        unsynced(db)
        found = [_Due(Envelope.model_validate_json(body), n) for body, n in db.execute(query)]
        _mark(db, [_row(d, now_s + _again_s(d.attempts), d.attempts + 1) for d in found])
    return found


def _mark(db: Connection, rows: list[dict[str, object]]) -> None:
    update_rows(db, t.outbox, ("node", "epoch", "seq"), rows)


def _row(due: _Due, at_s: float, attempts: int) -> dict[str, object]:
    letter = due.envelope
    place = {"node": letter.node, "epoch": letter.epoch, "seq": letter.seq}
    return {**place, "due_at_s": at_s, "attempts": attempts}


def _again_s(attempts: int) -> float:
    return _AGAIN_S * 2.0 ** min(attempts, _DOUBLINGS_MOST)
