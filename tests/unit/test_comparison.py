"""What two runs wrote is compared byte by byte as far as both have come, and a difference dated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.agent.comparison import Comparison, Output, compare
from singularity.primitives.findings import Finding

STEP = 10


def output(directory: Path, theirs: bytes, ours: bytes, start: int, *marks: int) -> Output:
    (directory / "theirs").write_bytes(theirs)
    (directory / "ours").write_bytes(ours)
    return Output(directory / "theirs", directory / "ours", start, marks)


@given(
    head=st.binary(max_size=20),
    lines=st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=6),
    more=st.binary(max_size=9),
    which=st.integers(0, 5),
)
def test_the_first_difference_is_dated_by_the_mini_batch_after_which_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    head: bytes,
    lines: list[bytes],
    more: bytes,
    which: int,
) -> None:
    directory = tmp_path_factory.mktemp("files")
    marks = [len(head) + sum(map(len, lines[: i + 1])) for i in range(len(lines))]
    ours = head + b"".join(lines)
    (same,) = compare([output(directory, ours + more, ours, len(head), *marks)], STEP)
    assert (same.bytes, same.differs_at) == (len(ours) - len(head), None)
    line = which % len(lines)
    at = marks[line] - 1
    theirs = ours[:at] + bytes([ours[at] ^ 1]) + ours[at + 1 :] + more
    (other,) = compare([output(directory, theirs, ours, len(head), *marks)], STEP)
    assert other.differs_at == STEP + line


def test_what_only_one_has_written_is_not_compared(tmp_path: Path) -> None:
    (behind,) = compare([output(tmp_path, b"ab", b"abcd", 2)], STEP)
    assert behind.bytes == 0
    assert Comparison((behind,), "").verdict(12)[0] is Finding.INCOMPARABLE
    assert Comparison((behind,), "identical").verdict(12)[0] is Finding.IDENTICAL


def test_parameters_that_differ_are_a_difference_whatever_the_files_say(tmp_path: Path) -> None:
    same = compare([output(tmp_path, b"abcd", b"abcd", 2)], STEP)
    found = Comparison(same, "differ")
    assert found.verdict(12) == (
        Finding.DIFFERS,
        "differs after mini-batch 12, in the parameters only",
    )
    other = compare([output(tmp_path, b"abcd", b"abce", 2, 3, 4)], STEP)
    finding, reason = Comparison(other, "identical").verdict(12)
    assert finding is Finding.DIFFERS
    assert reason == ("differs after mini-batch 11, in theirs; the parameters are identical")


def test_a_file_that_is_gone_has_nothing_to_compare(tmp_path: Path) -> None:
    gone = output(tmp_path, b"abcd", b"abcd", 2)
    gone.path.unlink()
    assert compare([gone], STEP)[0].bytes == 0
