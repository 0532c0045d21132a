"""How nodes come in, and are shown out: tickets, credentials, users of the broker."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.errors import Forbidden, NotFound, Unauthenticated
from singularity.primitives.nodes import NodeId
from singularity.primitives.operations import By
from singularity.primitives.transport import SigningKey

from . import tables as t
from .auth import TICKET, Caller, Tokens, hashed
from .brokers import BrokerUsers
from .enrolment_tables import enrolment, ticket
from .operations import Deed, note

ROTATED_S: Final = 300.0  # how long the credential before is good, for a node that missed the new
_KEPT_S: Final = 30 * 86400.0  # tickets that are worth nothing


class Enrolment:
    """Safe to share between threads."""

    def __init__(self, engine: Engine, tokens: Tokens, key: SigningKey, users: BrokerUsers) -> None:
        self._engine, self._tokens, self._key, self._users = engine, tokens, key, users

    # -- tickets ---------------------------------------------------------------------------------

    def issue(
        self, node: NodeId | None, expires_s: float, actor: str, now_s: float
    ) -> tuple[str, str, float]:
        """A ticket for one node, of that name if one is said: its id, its text, which is never seen
        again, and until when it is good."""
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row: dict[str, Any] = {"id": id_, "hash": hashed(secret), "node": node, "actor": actor}
        with self._engine.begin() as db:
            db.execute(delete(ticket).where(ticket.c.expires_at_s < now_s - _KEPT_S))
            row |= {"created_at_s": now_s, "expires_at_s": now_s + expires_s}
            db.execute(insert(ticket).values(row))
        return id_, f"{TICKET}_{id_}.{secret}", now_s + expires_s

    def tickets(self, now_s: float) -> list[dict[str, Any]]:
        """Those that can still be used, without their hashes."""
        shown = [c for c in ticket.c if c.name not in ("hash", "used_at_s", "used_by")]
        good = ticket.c.used_at_s.is_(None) & (ticket.c.expires_at_s > now_s)
        with self._engine.connect() as db:
            rows = db.execute(select(*shown).where(good).order_by(ticket.c.created_at_s))
            return [dict(row) for row in rows.mappings()]

    def withdraw(self, id_: str) -> None:
        """Raises NotFound."""
        with self._engine.begin() as db:
            mine = (ticket.c.id == id_) & ticket.c.used_at_s.is_(None)
            if not db.execute(delete(ticket).where(mine)).rowcount:
                raise NotFound(f"there is no ticket {id_} that was not used")

    # -- nodes -----------------------------------------------------------------------------------

    def need_welcome(self, who: Caller, node: NodeId) -> None:
        """Raises Forbidden where `who` may not register as `node`."""
        if not who.joining:
            who.need_node(node)
            return
        if who.node is not None and who.node != node:
            raise Forbidden(f"this token lets {who.node} join, not {node}", node=node)
        if who.ticket is None:
            with self._engine.connect() as db:
                barred = select(enrolment.c.barred_at_s).where(enrolment.c.node == node)
                if db.scalar(barred) is not None:
                    raise Forbidden(
                        f"{node} was revoked: `singularity nodes token {node}` makes a token by"
                        " which it may join again",
                        node=node,
                    )

    def credential(self, who: Caller, node: NodeId, now_s: float) -> str | None:
        """The node's own, where it has none yet or shall have another. A ticket is used up by that.
        Raises Unauthenticated when somebody else was quicker."""
        if not who.joining and not who.expiring:
            return None
        with self._engine.begin() as db:
            if who.ticket is not None:
                mine = (ticket.c.id == who.ticket) & ticket.c.used_at_s.is_(None)
                used = update(ticket).where(mine).values(used_at_s=now_s, used_by=node)
                if not db.execute(used).rowcount:
                    raise Unauthenticated("the token was used")
            first = {"node": node, "generation": 1, "barred_at_s": None}
            more = {"generation": enrolment.c.generation + 1, "barred_at_s": None}
            known = [enrolment.c.node]
            db.execute(
                upsert(enrolment)
                .values(first)
                .on_conflict_do_update(index_elements=known, set_=more)
            )
        return self._tokens.for_node(node, now_s, keep=who.expiring)

    def broker_url(self, node: NodeId) -> str:
        """By which the node fetches its letters."""
        with self._engine.connect() as db:
            mine = select(enrolment.c.generation).where(enrolment.c.node == node)
            generation = db.scalar(mine) or 0  # of an earlier release, that had no count
        return self._users.admit(node, self._key.broker_password(node, generation))

    def rotate(self, node: NodeId, by: By, now_s: float) -> None:
        """It is given another credential with its next heartbeat; the present one ends ROTATED_S
        later. Raises NotFound."""
        with self._engine.begin() as db:
            _need(db, node)
            note(db, Deed("rotate", f"node/{node}", {}, {}), by, now_s)
        self._tokens.expire(node, now_s + ROTATED_S)

    def revoke(self, node: NodeId, by: By, now_s: float) -> None:
        """Whatever it has is worth nothing any more, and only a ticket lets it in again. It freezes
        what it runs when its lease is over, and is lost. Raises NotFound."""
        with self._engine.begin() as db:
            _need(db, node)
            row = {"node": node, "generation": 1, "barred_at_s": now_s}
            again = {"generation": enrolment.c.generation + 1, "barred_at_s": now_s}
            db.execute(
                upsert(enrolment)
                .values(row)
                .on_conflict_do_update(index_elements=[enrolment.c.node], set_=again)
            )
            note(db, Deed("revoke", f"node/{node}", {}, {}), by, now_s)
        self._tokens.revoke_node(node, now_s)
        self._users.dismiss(node)


def broker_passwords(engine: Engine, key: SigningKey) -> Mapping[NodeId, str]:
    """Of all nodes that may come to the broker."""
    welcome = select(t.node.c.id, enrolment.c.generation, enrolment.c.barred_at_s)
    welcome = welcome.outerjoin_from(t.node, enrolment, t.node.c.id == enrolment.c.node)
    with engine.connect() as db:
        rows = db.execute(welcome).all()
    found = [(NodeId(id_), generation or 0) for id_, generation, barred in rows if barred is None]
    return {node: key.broker_password(node, generation) for node, generation in found}


def _need(db: Connection, node: NodeId) -> None:
    if db.scalar(select(t.node.c.id).where(t.node.c.id == node)) is None:
        raise NotFound(f"there is no node {node!r}")
