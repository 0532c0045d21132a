"""Who is let in by a cookie, and until when: for as long as the token behind it is good."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from singularity.api.auth import CODE_S, Role, Tokens
from singularity.api.web.sessions import LASTS_S, Sessions
from singularity.primitives.errors import Forbidden, Unauthenticated
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import SigningKey

NOW_S = 1000.0


@pytest.fixture
def tokens(engine: Engine) -> Tokens:
    return Tokens(engine, "join-me-0123456789")


@pytest.fixture
def sessions(tokens: Tokens, tmp_path: Path) -> Sessions:
    return Sessions(SigningKey.load_or_create(tmp_path / "key"), tokens)


def test_a_session_is_its_tokens_until_its_time_is_over(tokens: Tokens, sessions: Sessions) -> None:
    id_, text = tokens.create(Role.SUBMITTER, "me", NOW_S, project="vision")
    cookie = sessions.begin(f" {text}\n", NOW_S)
    assert text.partition(".")[2] not in cookie
    for at_s in (NOW_S, NOW_S + LASTS_S - 1):
        who = sessions.caller(cookie, at_s)
        assert (who.token, who.role, who.project) == (id_, Role.SUBMITTER, "vision")
    with pytest.raises(Unauthenticated, match="over"):
        sessions.caller(cookie, NOW_S + LASTS_S)


def test_a_session_ends_with_its_token(tokens: Tokens, sessions: Sessions) -> None:
    id_, text = tokens.create(Role.ADMIN, "me", NOW_S)
    cookie = sessions.begin(text, NOW_S)
    sessions.caller(cookie, NOW_S + 1)
    tokens.revoke(id_, NOW_S + 1)
    with pytest.raises(Unauthenticated):
        sessions.caller(cookie, NOW_S + 1)
    _, text = tokens.create(Role.ADMIN, "brief", NOW_S, expires_at_s=NOW_S + 60)
    cookie = sessions.begin(text, NOW_S)
    with pytest.raises(Unauthenticated, match="expired"):
        sessions.caller(cookie, NOW_S + 61)


def test_a_cookie_that_was_changed_or_made_elsewhere_is_nobodys(
    tokens: Tokens, sessions: Sessions, tmp_path: Path
) -> None:
    _, text = tokens.create(Role.ADMIN, "me", NOW_S)
    cookie = sessions.begin(text, NOW_S)
    body, _, signature = cookie.partition(".")
    other = Sessions(SigningKey.load_or_create(tmp_path / "other"), tokens).begin(text, NOW_S)
    changed = ("A" if body[0] != "A" else "B") + body[1:]
    wrong = [
        "",
        ".",
        "x",
        body,
        f"{body}.",
        f"{changed}.{signature}",
        f"{body}.{signature}x",
        other,
    ]
    for each in (*wrong, "Ünicode.é", "\ud800.x", cookie + "=" * 2000):
        with pytest.raises(Unauthenticated):
            sessions.caller(each, NOW_S)


def test_only_people_come_in(tokens: Tokens, sessions: Sessions) -> None:
    _, router = tokens.create(Role.ROUTER, "r", NOW_S)
    for text in (router, tokens.for_node(NodeId("n0"), NOW_S), "join-me-0123456789"):
        with pytest.raises(Forbidden):
            sessions.begin(text, NOW_S)
    for text in ("", "sgl_no.such", "Bearer x", "sgc_", "sgc_x.y", "sgc_\0.y"):
        with pytest.raises(Unauthenticated):
            sessions.begin(text, NOW_S)


def test_a_code_lets_in_once_and_is_no_token(tokens: Tokens, sessions: Sessions) -> None:
    id_, text = tokens.create(Role.VIEWER, "me", NOW_S, project="vision")
    who = tokens.caller(f"Bearer {text}", NOW_S)
    code, until_s = tokens.code(who, NOW_S)
    assert until_s == NOW_S + CODE_S and text.partition(".")[2] not in code
    rest = code.removeprefix("sgc_")
    for worn in (code, f"sgl_{rest}", f"sgl_code:{rest}"):
        with pytest.raises(Unauthenticated):
            tokens.caller(f"Bearer {worn}", NOW_S)
    assert [t["id"] for t in tokens.known()] == [id_], "a code is nobody's token"
    with pytest.raises(Unauthenticated):
        sessions.begin(code + "x", NOW_S)
    found = sessions.caller(sessions.begin(code, NOW_S + 1), NOW_S + 1)
    assert (found.token, found.project) == (id_, "vision")
    with pytest.raises(Unauthenticated):
        sessions.begin(code, NOW_S + 1)


def test_a_code_is_worth_nothing_when_it_is_old_or_its_maker_is_gone(
    tokens: Tokens, sessions: Sessions
) -> None:
    id_, text = tokens.create(Role.VIEWER, "me", NOW_S)
    who = tokens.caller(f"Bearer {text}", NOW_S)
    old, _ = tokens.code(who, NOW_S)
    with pytest.raises(Unauthenticated):
        sessions.begin(old, NOW_S + CODE_S)
    code, _ = tokens.code(who, NOW_S)
    tokens.revoke(id_, NOW_S)
    with pytest.raises(Unauthenticated):
        sessions.begin(code, NOW_S + 1)


def test_a_form_is_good_for_the_browser_that_it_was_made_for(sessions: Sessions) -> None:
    sessions.check("cookie", sessions.proof("cookie"))
    for cookie, proof in (("other", "cookie"), ("", ""), ("cookie", "")):
        with pytest.raises(Forbidden):
            sessions.check(cookie, sessions.proof(proof))
