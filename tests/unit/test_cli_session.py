"""Sessions: the environment first, one owner's file otherwise, and no token to a stranger."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from singularity.cli.nodes import search_path
from singularity.cli.session import Session, current, save, session_path
from singularity.primitives.errors import Unauthenticated


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SINGULARITY_URL", raising=False)
    monkeypatch.delenv("SINGULARITY_TOKEN", raising=False)
    return tmp_path


def test_what_was_saved_is_in_force_and_private() -> None:
    kept = Session(url="http://127.0.0.1:1", token="t")
    old = os.umask(0)
    try:
        path = save(kept)
    finally:
        os.umask(old)
    assert path == session_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert current() == kept
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Session(url="http://old:1", token="old"))
    monkeypatch.setenv("SINGULARITY_URL", "http://new:1")
    monkeypatch.setenv("SINGULARITY_TOKEN", "new")
    assert current() == Session(url="http://new:1", token="new")


def test_a_kept_token_is_never_offered_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Session(url="http://old:1", token="old"))
    monkeypatch.setenv("SINGULARITY_URL", "http://stranger:1")
    with pytest.raises(Unauthenticated, match="SINGULARITY_TOKEN"):
        current()


@pytest.mark.parametrize("content", [None, "", "{", '{"url": 1}'])
def test_without_a_session_the_way_to_one_is_said(content: str | None) -> None:
    if content is not None:
        session_path().parent.mkdir(parents=True)
        session_path().write_text(content)
    with pytest.raises(Unauthenticated, match="singularity login"):
        current()


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:80", True),
        ("http://localhost", True),
        ("http://[::1]:80", True),
        ("https://planet.example", False),
        ("http://127.0.0.1.example:80", False),
    ],
)
def test_a_server_is_local_only_by_a_loopback_name(url: str, local: bool) -> None:
    assert Session(url=url, token="t").local is local


def test_python_is_the_one_of_this_environment_unless_another_is_activated() -> None:
    ours = str(Path(sys.executable).parent)
    assert search_path({"PATH": "/usr/bin"}) == f"{ours}:/usr/bin"
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        assert search_path({"PATH": "/theirs:/usr/bin", name: "/t"}) == "/theirs:/usr/bin"
