"""What the agent must remember across its own death: AgentState, before anything is acted on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pydantic import TypeAdapter

from singularity.primitives.errors import Unavailable
from singularity.primitives.nodes import NodeId

from .core import AgentState

_STATE = TypeAdapter(AgentState)


class Journal:
    """One row in SQLite, replaced durably (synchronous=FULL). One writer: the agent. Nobody else
    may read it: the node's token is in it, and what jobs were given to start with."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        for known in path.parent.glob(f"{path.name}*"):
            known.chmod(0o600)  # of an earlier release
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT)")

    def load(self, node: NodeId) -> AgentState:
        """The state last saved, or a fresh one. Raises ValueError for another node's journal."""
        row = self._get("state")
        if row is None:
            return AgentState(node=node)
        state = _STATE.validate_json(row)
        if state.node != node:
            raise ValueError(f"this journal belongs to {state.node}, not to {node}")
        return state

    def save(self, state: AgentState) -> None:
        """Raises Unavailable."""
        self.remember("state", _STATE.dump_json(state).decode())

    def remember(self, key: str, value: str) -> None:
        """Keep one fact of the agent's own: its token, its last admission. Raises Unavailable, and
        what was kept before stands: the disk is full, perhaps."""
        try:
            self._db.execute(
                "INSERT INTO memory VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )
        except sqlite3.Error as error:
            raise Unavailable(f"the journal cannot be written: {error}") from error

    def recall(self, key: str) -> str | None:
        return self._get(key)

    def close(self) -> None:
        self._db.close()

    def _get(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM memory WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])
