"""Who is known without asking the database is whoever the database named a moment ago."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from singularity.api.auth import Role, Tokens
from singularity.primitives.errors import Unauthenticated


def test_a_token_is_remembered_once_it_was_read_and_for_a_while(engine: Engine) -> None:
    tokens = Tokens(engine, "join-me")
    _, text = tokens.create(Role.VIEWER, "ci", 1.0)
    asks = f"Bearer {text}"
    assert tokens.remembered(asks, 1.0) is None
    known = tokens.caller(asks, 1.0)
    assert tokens.remembered(asks, 1.5) == known and known.role is Role.VIEWER
    assert tokens.remembered(asks, 60.0) is None, "it may have been revoked"
    joining = tokens.remembered("Bearer join-me", 1.0)
    assert joining is not None and joining.joining


def test_who_is_wrong_is_refused_from_memory_as_well(engine: Engine) -> None:
    tokens = Tokens(engine, "join-me")
    id_, text = tokens.create(Role.VIEWER, "ci", 1.0)
    tokens.caller(f"Bearer {text}", 1.0)
    for wrong in ("", "Bearer", "Bearer nonsense", f"Bearer {text}x"):
        with pytest.raises(Unauthenticated):
            tokens.remembered(wrong, 1.0)
    tokens.revoke(id_, 1.0)
    assert tokens.remembered(f"Bearer {text}", 1.0) is None
    with pytest.raises(Unauthenticated):
        tokens.caller(f"Bearer {text}", 1.0)
