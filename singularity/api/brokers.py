"""Nodes as users of the broker: each may reach its own queue there, and nothing else.

The password of a node is derived, not kept: whoever has the control plane's key can make the user
again at any time, after a broker has lost its users, or was away when the node joined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import keys_of

log = logging.getLogger(__name__)

_KINDS: Final = ("redis", "rediss")
_TIMEOUT_S: Final = 3.0
_MAY: Final = (
    *("ping", "brpop", "rpop", "lpush", "rpush", "llen", "exists", "zadd", "zrem", "zrange"),
    *("zrevrangebyscore", "hset", "hget", "hdel", "sadd", "srem", "smembers", "set", "get", "del"),
    *("expire", "pexpire", "watch", "multi", "exec", "discard", "unwatch", "eval", "evalsha"),
    *("script|load", "select", "client|setinfo", "client|setname", "info", "hello", "auth"),
)
_HOW: Final = (
    "the broker does not let the control plane make users (it needs +acl|setuser +acl|deluser"
    " +acl|users +acl|save): nodes share SINGULARITY_BROKER_URL, and each can read what is meant"
    " for others"
)


class BrokerUsers:
    """Makes and removes them. Safe to share between threads; waits for a few seconds at most."""

    def __init__(self, url: str, planet: str, *, wanted: bool = True) -> None:
        """`planet` is its mark, for several may share a broker. Not `wanted`, or of a kind that has
        no users, all nodes have `url`."""
        self._url, self._prefix = url, f"node.{planet}."
        kind = urlsplit(url).scheme
        self._client = _client(url) if wanted and kind in _KINDS else None
        self._able = self._client is not None

    def admit(self, node: NodeId, password: str) -> str:
        """The URL by which the node comes; the shared one where the broker has no users for us.

        A broker that is away is no reason for that: the user is made when it is back (`keep`).
        """
        if not self._able or self._client is None:
            return self._url
        try:
            self._acl("SETUSER", *self._rules(node, password))
            self._save()
        except redis.ConnectionError as error:
            if isinstance(error, redis.AuthenticationError):
                return self._unable(error)
            log.warning("broker down", extra={"reason": str(error), "node": node})
        except redis.TimeoutError as error:
            log.warning("broker down", extra={"reason": str(error), "node": node})
        except redis.ResponseError as error:
            return self._unable(error)
        return _with_user(self._url, self._prefix + node, password)

    def dismiss(self, node: NodeId) -> None:
        """Ends its connections too. What cannot be done now is done by `keep`."""
        if self._client is not None and self._able:
            with suppress(redis.RedisError):
                self._acl("DELUSER", self._prefix + node)
                self._save()

    def keep(self, nodes: Callable[[], Mapping[NodeId, str]]) -> int:
        """Make those of `nodes` (with their passwords) that the broker does not know, and remove
        those that are none any more; how many that was."""
        if self._client is None or not self._able:
            return 0
        try:
            known = {_text(name) for name in self._acl("USERS")}
            wanted = {self._prefix + node: (node, word) for node, word in nodes().items()}
            fresh = sorted(wanted.keys() - known)
            strange = sorted(n for n in known - wanted.keys() if n.startswith(self._prefix))
            for name in fresh:
                self._acl("SETUSER", *self._rules(*wanted[name]))
            if strange:
                self._acl("DELUSER", *strange)
            if fresh or strange:
                self._save()
        except (redis.ConnectionError, redis.TimeoutError):
            return 0  # it is told of elsewhere
        except redis.ResponseError as error:
            self._unable(error)
            return 0
        return len(fresh) + len(strange)

    def _acl(self, *words: str) -> Any:
        assert self._client is not None
        return self._client.execute_command("ACL", *words)  # type: ignore[no-untyped-call]

    def _save(self) -> None:
        """Where the broker keeps users in a file; elsewhere `keep` makes them again."""
        with suppress(redis.ResponseError):
            self._acl("SAVE")

    def _rules(self, node: NodeId, password: str) -> list[str]:
        rules = [self._prefix + node, "reset", "on", f">{password}", "-@all"]
        return [*rules, *(f"~{key}" for key in keys_of(node)), *(f"+{name}" for name in _MAY)]

    def _unable(self, error: Exception) -> str:
        if self._able:
            log.warning(_HOW, extra={"reason": str(error)})
        self._able = False
        return self._url


def _client(url: str) -> redis.Redis:
    timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    found: redis.Redis = redis.Redis.from_url(url, **timeouts)
    return found


def _with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password)}@{place}"))


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
