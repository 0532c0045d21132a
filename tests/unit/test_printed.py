"""What a rank prints takes so much of the disk at most, and readers are told what is missing."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from singularity.agent.printed import LogKeeper, keep_within
from singularity.api import logs
from singularity.api.streams import plain

MOST = 1 << 20


def printed(path: Path, first: int, last: int) -> None:
    """Lines of 100 bytes, numbered."""
    with path.open("ab") as file:
        file.writelines(b"%09d %s\n" % (n, b"x" * 89) for n in range(first, last))


def read(path: Path, offset: int = 0) -> str:
    return "".join(plain(path, offset))


def test_the_first_lines_and_the_last_stay_where_they_were(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    printed(log, 0, 5000)
    assert keep_within(log, MOST) == 0, "that is not too much"
    printed(log, 5000, 100_000)
    size = log.stat().st_size
    missing = keep_within(log, MOST)
    assert log.stat().st_size == size == 100 * 100_000
    assert log.stat().st_blocks * 512 <= MOST
    told = read(log)
    assert "\0" not in told and len(told) == size - missing
    lines = told.splitlines()
    assert lines[0].startswith("000000000 ") and lines[-1].startswith("000099999 ")
    assert f"[singularity: {missing} bytes that were printed here are not kept]" in lines


def test_what_is_printed_later_is_kept_and_the_word_says_how_much_is_missing_then(
    tmp_path: Path,
) -> None:
    log = tmp_path / "rank-0.log"
    printed(log, 0, 50_000)
    first = keep_within(log, MOST)
    printed(log, 50_000, 100_000)
    second = keep_within(log, MOST)
    told = read(log)
    assert second > first and told.count("[singularity:") == 1 and f" {second} bytes" in told
    assert told.endswith("x\n") and told.splitlines()[-1].startswith("000099999 ")


def test_a_tail_and_a_cursor_pass_over_what_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    printed(log, 0, 100_000)
    missing = keep_within(log, MOST)
    whole = read(log)
    for wanted in (1, 3000, 6000, 7000, 200_000):
        found = read(log, logs.first_offset(log, wanted))
        assert found == "".join(whole.splitlines(keepends=True)[-wanted:])
    within = MOST // 2
    at, block = logs.read_from(log, within, 10)
    assert at == MOST // 4 + missing and block == log.read_bytes()[at : at + 10]
    assert logs.read_from(log, log.stat().st_size, 10) == (log.stat().st_size, b"")


def test_a_log_that_was_cut_back_into_the_hole_goes_on(tmp_path: Path) -> None:
    """As a rank does that resumes from a checkpoint before most of what it printed."""
    log = tmp_path / "rank-0.log"
    printed(log, 0, 100_000)
    keep_within(log, MOST)
    with log.open("r+b") as file:
        file.truncate(MOST // 2)
    assert read(log).endswith("not kept]\n")
    printed(log, 7, 8)
    assert read(log).splitlines()[-1].startswith("000000007 ")


def test_logs_are_looked_at_until_it_is_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, looked = tmp_path / "rank-0.log", threading.Semaphore(0)
    printed(log, 0, 50_000)
    caplog.set_level(logging.WARNING)

    def both() -> list[Path]:
        looked.release()
        return [tmp_path / "gone", log]

    keeper = LogKeeper(both, MOST)
    keeper.start()
    assert looked.acquire(timeout=30.0) and looked.acquire(timeout=30.0)
    keeper.stop()
    assert log.stat().st_blocks * 512 <= MOST
    assert [r.message for r in caplog.records] == ["output.dropped"]
