"""Who is calling, and what they may do.

A token is `sgl_<id>.<secret>`; only the SHA-256 of the secret is kept. That is enough: secrets are
32 random bytes, so there is nothing to guess and nothing for a slow hash to protect.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Engine, RowMapping, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.errors import Forbidden, InvalidSpec, NotFound, Unauthenticated
from singularity.primitives.nodes import NodeId

from .enrolment_tables import ticket
from .tables import token

_PREFIX: Final = "sgl"
TICKET: Final = "sgj"
CODE: Final = "sgc"
CODE_S: Final = 120.0  # how long a code that lets a browser in is good
_CODE_ID: Final = "code:"  # of its row; no token has such an id
_CACHED_S: Final = 2.0  # how long a revoked token may still work
_CACHED_MOST: Final = 10_000


class Role(IntEnum):
    """Each may do what those below may. Two are outside of the order: an agent, for its own node
    and no more, and a router, for its table and what it tells of requests."""

    ROUTER = -2
    AGENT = -1
    NOBODY = 0
    VIEWER = 1
    SUBMITTER = 2
    OPERATOR = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """`project` None is every project. `joining` came with the join token and may only register; if
    with a `ticket`, once, and as `node` if that is said. Of an agent that is `expiring` the token
    ends soon, and it shall register for another."""

    token: str
    role: Role
    project: str | None = None
    node: NodeId | None = None
    joining: bool = False
    ticket: str | None = None
    expiring: bool = False

    def need(self, role: Role) -> None:
        """Raises Forbidden unless the caller is a `role` or more."""
        if self.role < max(role, Role.NOBODY):
            raise Forbidden(
                f"this needs the role {role.name.lower()}; the token is of {self.role.name.lower()}"
            )

    def sees(self, project: str) -> bool:
        return self.role >= Role.VIEWER and self.project in (None, project)

    def need_planet(self, role: Role) -> None:
        """For what belongs to no project: nodes, drains, tokens."""
        self.need(role)
        if self.project is not None:
            raise Forbidden(f"this is not for a token of one project ({self.project})")

    def need_router(self) -> None:
        """Raises Forbidden unless the caller is a router."""
        if self.role is not Role.ROUTER:
            raise Forbidden("only a router may do this; make it a token of that role")

    def need_node(self, node: str) -> None:
        """Raises Forbidden unless the caller is the agent of `node`."""
        if self.role is not Role.AGENT or self.node != node:
            raise Forbidden(f"only the agent of {node} may do this", node=node)


def parse_role(name: str) -> Role:
    """A role that may be given by hand. Raises InvalidSpec."""
    roles = [r.name.lower() for r in Role if r >= Role.VIEWER or r is Role.ROUTER]
    if name not in roles:
        raise InvalidSpec(f"there is no role {name!r}; there are: {', '.join(roles)}")
    return Role[name.upper()]


def check_origin(headers: Mapping[str, str], allowed: frozenset[str]) -> None:
    """Refuse requests that a web page of another name made a browser send.

    A page that rebinds its own name to our address still says its own name in Host.
    """
    if "*" in allowed:
        return
    host = _name(headers.get("host", ""))
    if host not in allowed:
        raise Forbidden(f"this server is not {host!r}; SINGULARITY_HOSTS names what it is")
    origin = headers.get("origin")
    if origin is not None and _name(urlsplit(origin).netloc) not in allowed:
        raise Forbidden("requests from other web sites are refused")


def _name(authority: str) -> str:
    """'localhost:80' -> 'localhost', '[::1]:80' -> '[::1]'."""
    host = authority.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


class Tokens:
    """Makes, checks and revokes tokens. Safe to share between threads."""

    def __init__(self, engine: Engine, join_token: str = "") -> None:
        self._engine, self._join = engine, join_token
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, RowMapping | None]] = {}

    def first(self, text: str, now_s: float) -> None:
        """Make `text` the first admin's token, unless there is an admin already.

        Raises InvalidSpec when it does not look like a token.
        """
        id_, secret = _chosen(text)
        with self._engine.begin() as db:
            db.exec_driver_sql("LOCK TABLE token IN SHARE ROW EXCLUSIVE MODE")
            if db.execute(select(func.count()).where(token.c.role == "admin")).scalar():
                return
            values = _row(id_, secret, Role.ADMIN, "first", now_s)
            db.execute(insert(token).values(values))

    def admit(self, text: str, now_s: float) -> None:
        """Make `text` an admin's token, whoever else there is; it may be one already. Raises
        InvalidSpec."""
        id_, secret = _chosen(text)
        values = _row(id_, secret, Role.ADMIN, "of the restore", now_s)
        with self._engine.begin() as db:
            db.execute(upsert(token).values(values).on_conflict_do_nothing())

    def create(
        self,
        role: Role,
        name: str,
        now_s: float,
        project: str | None = None,
        expires_at_s: float | None = None,
    ) -> tuple[str, str]:
        """A new token: its id, and its text, which is never seen again."""
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = _row(id_, secret, role, name, now_s)
        values |= {"project": project, "expires_at_s": expires_at_s}
        with self._engine.begin() as db:
            db.execute(insert(token).values(values))
        return id_, f"{_PREFIX}_{id_}.{secret}"

    def for_node(self, node: NodeId, now_s: float, *, keep: bool = False) -> str:
        """The node's own token; all that it had before are revoked, unless they are kept until they
        expire: the node may not hear of this one."""
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = _row(id_, secret, Role.AGENT, node, now_s) | {"node": node}
        with self._engine.begin() as db:
            if not keep:
                db.execute(update(token).where(_of(node)).values(revoked_at_s=now_s))
            db.execute(insert(token).values(values))
        self._forget()
        return f"{_PREFIX}_{id_}.{secret}"

    def revoke_node(self, node: NodeId, now_s: float) -> None:
        """All that it has. Other servers may take them for _CACHED_S more."""
        with self._engine.begin() as db:
            db.execute(update(token).where(_of(node)).values(revoked_at_s=now_s))
        self._forget()

    def expire(self, node: NodeId, at_s: float) -> None:
        """All that it has end then, or earlier."""
        until = func.least(func.coalesce(token.c.expires_at_s, at_s), at_s)
        with self._engine.begin() as db:
            db.execute(update(token).where(_of(node)).values(expires_at_s=until))
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._cache.clear()

    def revoke(self, id_: str, now_s: float) -> None:
        """Raises NotFound. Once more does nothing."""
        with self._engine.begin() as db:
            known = db.execute(select(token.c.id).where(token.c.id == id_)).scalar()
            if known is None:
                raise NotFound(f"there is no token {id_}")
            mine = (token.c.id == id_) & token.c.revoked_at_s.is_(None)
            db.execute(update(token).where(mine).values(revoked_at_s=now_s))
        with self._lock:
            self._cache.pop(id_, None)

    def known(self) -> list[dict[str, Any]]:
        """Every token that is not revoked, without its hash; node tokens apart."""
        shown = [c for c in token.c if c.name not in ("hash", "node", "revoked_at_s")]
        query = select(*shown).where(token.c.revoked_at_s.is_(None), token.c.role != "agent")
        query = query.where(~token.c.id.startswith(_CODE_ID))
        with self._engine.connect() as db:
            return [dict(row) for row in db.execute(query.order_by(token.c.id)).mappings()]

    def caller(self, authorization: str, now_s: float) -> Caller:
        """Whose Authorization header this is. Raises Unauthenticated, never saying why not."""
        found = self._caller(authorization, now_s, self._read)
        assert found is not None
        return found

    def remembered(self, authorization: str, now_s: float) -> Caller | None:
        """As `caller`, where that can be said without the database; None where it cannot."""
        return self._caller(authorization, now_s, None)

    def _caller(
        self,
        authorization: str,
        now_s: float,
        read: Callable[[str, float], RowMapping | None] | None,
    ) -> Caller | None:
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated("send the header Authorization: Bearer <token>")
        if self._join and hmac.compare_digest(text.encode(), self._join.encode()):
            return Caller("join", Role.NOBODY, joining=True)
        if text.startswith(f"{TICKET}_") and "." in text:
            return self._joining(text, now_s) if read is not None else None
        id_, secret = _split(text)
        row = self._kept(id_, now_s) if id_ else None
        if row is None and id_:
            if read is None:
                return None
            row = read(id_, now_s)
        known = row["hash"] if row else hashed("")
        same = hmac.compare_digest(hashed(secret), known)
        return _standing(row if same else None, now_s)

    # -- browsers --------------------------------------------------------------------------------

    def holder(self, id_: str, now_s: float) -> Caller:
        """Whose token that is: for who has shown it before. Raises Unauthenticated."""
        return _standing(self._kept(id_, now_s) or self._read(id_, now_s), now_s)

    def code(self, who: Caller, now_s: float) -> tuple[str, float]:
        """A code by which one browser may come in as `who`, once, and until when it is good. It is
        hashed in its own way, so it is no token, nor is a token a code."""
        id_, secret, until_s = secrets.token_hex(6), secrets.token_urlsafe(16), now_s + CODE_S
        values = _row(_CODE_ID + id_, "", Role.VIEWER, who.token, now_s)
        values |= {"hash": hashed(f"{CODE} {secret}"), "expires_at_s": until_s}
        codes = token.c.id.startswith(_CODE_ID)
        with self._engine.begin() as db:
            db.execute(delete(token).where(codes, token.c.expires_at_s <= now_s))
            db.execute(insert(token).values(values))
        return f"{CODE}_{id_}.{secret}", until_s

    def redeem(self, text: str, now_s: float) -> Caller:
        """Whoever made the code, which is used up by this. Raises Unauthenticated."""
        id_, _, secret = text.removeprefix(f"{CODE}_").partition(".")
        mine = (token.c.id == _CODE_ID + id_) & (token.c.hash == hashed(f"{CODE} {secret}"))
        used = delete(token).where(mine, token.c.expires_at_s > now_s).returning(token.c.name)
        maker = None
        if "\0" not in id_:
            with self._engine.begin() as db:
                maker = db.execute(used).scalar()
        if maker is None:
            raise Unauthenticated("the code is not valid; one is good once, for two minutes")
        return self.holder(maker, now_s)

    def _joining(self, text: str, now_s: float) -> Caller:
        """Whoever shows a ticket."""
        id_, _, secret = text.partition("_")[2].partition(".")
        if "\0" in id_:
            raise Unauthenticated("the token is not valid")
        with self._reading.connect() as db:
            row = db.execute(select(ticket).where(ticket.c.id == id_)).mappings().first()
        same = hmac.compare_digest(hashed(secret), row["hash"] if row else hashed(""))
        if row is None or not same or row["used_at_s"] is not None or row["expires_at_s"] <= now_s:
            raise Unauthenticated("the token is not valid; one to join is good once, for a while")
        node = NodeId(row["node"]) if row["node"] else None
        return Caller(f"join {id_}", Role.NOBODY, node=node, joining=True, ticket=id_)

    def _kept(self, id_: str, now_s: float) -> RowMapping | None:
        with self._lock:
            at_s, row = self._cache.get(id_, (0.0, None))
        return row if row is not None and 0 <= now_s - at_s < _CACHED_S else None

    def _read(self, id_: str, now_s: float) -> RowMapping | None:
        with self._reading.connect() as db:
            row = db.execute(select(token).where(token.c.id == id_)).mappings().first()
        if row is not None:
            with self._lock:
                if len(self._cache) >= _CACHED_MOST:
                    self._cache.clear()
                self._cache[id_] = (now_s, row)
        return row


def _split(text: str) -> tuple[str, str]:
    """Id and secret; two empty texts when it is no token."""
    head, dot, secret = text.partition(".")
    prefix, _, id_ = head.partition("_")
    if prefix != _PREFIX or not dot or not id_ or not secret or "\0" in text:
        return "", ""
    if id_.startswith(_CODE_ID):
        return "", ""
    return id_, secret


def _standing(row: RowMapping | None, now_s: float) -> Caller:
    """Who that is. Raises Unauthenticated for a token that is not, or no longer, good."""
    if row is None or row["revoked_at_s"] is not None:
        raise Unauthenticated("the token is not valid")
    if row["expires_at_s"] is not None and row["expires_at_s"] <= now_s:
        raise Unauthenticated("the token has expired")
    node = NodeId(row["node"]) if row["node"] else None
    expiring = node is not None and row["expires_at_s"] is not None
    role = Role[row["role"].upper()]
    return Caller(row["id"], role, row["project"], node, expiring=expiring)


def _of(node: NodeId) -> ColumnElement[bool]:
    return (token.c.node == node) & token.c.revoked_at_s.is_(None)


def _chosen(text: str) -> tuple[str, str]:
    """As _split, of a token that an operator made up. Raises InvalidSpec."""
    id_, secret = _split(text)
    if not id_ or len(secret) < 16:
        raise InvalidSpec(f"an admin token looks like {_PREFIX}_<id>.<16 or more characters>")
    return id_, secret


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _row(id_: str, secret: str, role: Role, name: str, now_s: float) -> dict[str, Any]:
    return {
        "id": id_,
        "hash": hashed(secret),
        "role": role.name.lower(),
        "name": name,
        "created_at_s": now_s,
    }
