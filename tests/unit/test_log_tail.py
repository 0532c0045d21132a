"""The last lines of a log, and pieces of it that are whole characters."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from singularity.api.logs import start_of_tail, whole

_LINES = st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30)


@given(_LINES, st.booleans(), st.integers(0, 40))
def test_the_tail_is_the_last_lines(lines: list[bytes], ended: bool, wanted: int) -> None:
    text = b"\n".join(lines) + (b"\n" if lines and ended else b"")
    found = text[start_of_tail(io.BytesIO(text), wanted) :]
    kept = io.BytesIO(text).readlines()
    assert found == b"".join(kept[max(0, len(kept) - wanted) :])


def test_a_tail_longer_than_a_block_is_found() -> None:
    text = b"".join(b"%06d %s\n" % (n, b"x" * 100) for n in range(3000))
    assert text[start_of_tail(io.BytesIO(text), 1500) :].startswith(b"001500 ")


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 400))
def test_a_cut_never_halves_a_character(text: str, at: int) -> None:
    block = text.encode()[:at]
    cut = whole(block)
    assert len(block) - cut <= 3
    assert text.startswith(block[:cut].decode())
