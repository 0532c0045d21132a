"""A rank that parks: what wakes it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from singularity.agent.interposer.cut import Rank  # noqa: E402  # after what may be missing
from singularity.agent.interposer.groups import Links  # noqa: E402
from singularity.agent.interposer.page import NOWHERE, Command, Page, State  # noqa: E402
from singularity.agent.interposer.slots import Slots  # noqa: E402


def test_what_woke_an_earlier_park_twice_does_not_wake_the_next(tmp_path: Path) -> None:
    """An agent that died as it woke a rank is followed by one that does so again. The rank would
    have gone on from its next park alone, to where the gang had met before."""
    page = Page.create(tmp_path / "page")
    rank = Rank(page, Links(Slots(tmp_path)))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    page.stop = page.commit = 1
    page.command = Command.RESUME
    thread = threading.Thread(target=rank.boundary, args=(optimizer,), daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 60
    while page.state is not State.PARKED:
        assert thread.is_alive(), "it went on"
        assert time.monotonic() < deadline_s, page.state
        time.sleep(0.001)
    page.resume(NOWHERE)
    thread.join(60)
    assert not thread.is_alive() and page.state is State.RUNNING
