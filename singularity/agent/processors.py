"""What the processors of this machine can do, beside each image that was made on them.

A process looks once, at its start, which instructions there are, and goes on using them wherever it
is restored. On a processor that lacks one it would die in the middle of its work, or not at all:
so such an image is refused before anything is restored.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from singularity.primitives.errors import ImageUnfit

_NOTE: Final = "processor.json"  # beside the images of a rank
_NAMED_MOST: Final = 6
# The flags of x86 that programs can use; the rest tell of the kernel, of cures for its wounds, and
# of the hypervisor, and differ between machines that run the same programs.
_USABLE: Final = re.compile(
    r"(mmx|sse|ssse|pni|avx|amx|fma|f16c|bmi|adx|abm|aes|sha|gfni|pclmul|vaes|vpclmul|popcnt|movbe|"
    r"movdir|rdrand|rdseed|rdpid|fsgsbase|xsave|xgetbv|clflush|clwb|cx8|cx16|cmov|lahf|serialize|"
    r"3dnow|sm3|sm4|rdtscp|rtm|hle|fxsr)\w*"
)


@dataclass(frozen=True, slots=True)
class Processor:
    """`features` are the instruction sets that programs can use, as the kernel names them."""

    architecture: str
    features: frozenset[str]

    def lacks(self, needed: Processor) -> str:
        """What `needed` has and this has not, in words; "" for nothing."""
        if self.architecture != needed.architecture:
            return f"{needed.architecture} (this is {self.architecture})"
        missing = sorted(needed.features - self.features)
        more = f" and {len(missing) - _NAMED_MOST} more" if len(missing) > _NAMED_MOST else ""
        return ", ".join(missing[:_NAMED_MOST]) + more


_PROCESSOR = TypeAdapter(Processor)


def here(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """This machine's. Where its processors differ, what all of them have."""
    x86 = platform.machine() in ("x86_64", "i686")
    found: frozenset[str] | None = None
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            words = frozenset(w for w in value.split() if not x86 or _USABLE.fullmatch(w))
            found = words if found is None else found & words
    return Processor(platform.machine(), found or frozenset())


def note(images: Path, processor: Processor) -> None:
    """Write down what the rank in `images` may be using."""
    (images / _NOTE).write_bytes(_PROCESSOR.dump_json(processor))


def check(images: Path, processor: Processor) -> None:
    """Raises ImageUnfit when the rank in `images` may use what `processor` lacks. An image that
    tells nothing is older than the note, and taken."""
    path = images / _NOTE
    if not path.exists():
        return
    if lacking := processor.lacks(_PROCESSOR.validate_json(path.read_bytes())):
        raise ImageUnfit(f"the image may use what this node's processors lack: {lacking}")
