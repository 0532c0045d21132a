"""An image goes only where the processors can do what those of its origin could."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.agent.processors import Processor, check, here, note
from singularity.primitives.errors import ImageUnfit

FEATURES = st.frozensets(st.sampled_from(["avx", "avx2", "avx512f", "fma", "sse4_2"]))


@given(FEATURES, FEATURES)
def test_more_is_enough_and_less_is_named(made: frozenset[str], found: frozenset[str]) -> None:
    lacking = Processor("x86_64", found).lacks(Processor("x86_64", made))
    assert (lacking == "") == (made <= found)
    assert set(lacking.split(", ")) - {""} == made - found


def test_another_architecture_is_another_world() -> None:
    arm, x86 = Processor("aarch64", frozenset()), Processor("x86_64", frozenset())
    assert arm.lacks(x86) == "x86_64 (this is aarch64)"


def test_what_differs_between_processors_of_one_machine_counts_for_nothing(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor : 0\nflags\t: sse2 avx avx2 hypervisor\n\nprocessor : 1\nflags : sse2 avx ibrs\n"
        "Features : sse2 avx\n"
    )
    assert here(cpuinfo).features == {"sse2", "avx"}


def test_the_note_travels_with_the_image_and_an_old_image_has_none(tmp_path: Path) -> None:
    check(tmp_path, Processor("x86_64", frozenset()))
    note(tmp_path, Processor("x86_64", frozenset({"avx2", "fma"})))
    check(tmp_path, Processor("x86_64", frozenset({"avx2", "fma", "sse2"})))
    with pytest.raises(ImageUnfit, match="processors lack: fma"):
        check(tmp_path, Processor("x86_64", frozenset({"avx2"})))
