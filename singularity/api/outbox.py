"""What was written to nodes and is not acknowledged: due letters, and when they are due again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, Engine

from singularity.primitives.errors import BrokerDown
from singularity.primitives.messages import Envelope
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import Letterbox, SigningKey

from . import tables as t
from .bulk import UNSYNCED, Question, begun, update_rows

BATCH: Final = 500
_AGAIN_S: Final = 2.0  # doubled with each attempt; agents also pull, so this is a second chance
_DOUBLINGS_MOST: Final = 6
_TAKE: Final = """
WITH due AS (SELECT node, epoch, seq, attempts FROM outbox WHERE due_at_s <= %s
             ORDER BY node, epoch, seq LIMIT %s FOR UPDATE SKIP LOCKED),
marked AS (UPDATE outbox AS o SET due_at_s = %s + %s * 2.0 ^ least(due.attempts, %s),
                                  attempts = due.attempts + 1
           FROM due WHERE o.node = due.node AND o.epoch = due.epoch AND o.seq = due.seq)
SELECT log.body::text, due.attempts FROM due JOIN node_log AS log USING (node, epoch, seq)
ORDER BY node, epoch, seq"""


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
    taking = Question(_TAKE, (now_s, BATCH, now_s, _AGAIN_S, _DOUBLINGS_MOST))
    with begun(engine, Question(UNSYNCED), taking, Question("COMMIT")) as (_, (_, rows, _)):
        return [_Due(Envelope.model_validate_json(body), attempts) for body, attempts in rows]


def _mark(db: Connection, rows: list[dict[str, object]]) -> None:
    update_rows(db, t.outbox, ("node", "epoch", "seq"), rows)


def _row(due: _Due, at_s: float, attempts: int) -> dict[str, object]:
    letter = due.envelope
    place = {"node": letter.node, "epoch": letter.epoch, "seq": letter.seq}
    return {**place, "due_at_s": at_s, "attempts": attempts}
