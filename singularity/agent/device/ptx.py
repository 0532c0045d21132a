"""Where things stand in the text of a PTX module: kernels, their parameters and bodies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ENTRY: Final = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)\s*")
_SKIPPED: Final = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_VERSION: Final = re.compile(r"\.version\s+(\d+)\.(\d+)")
_TARGET: Final = re.compile(r"\.target\s+sm_(\d+)([a-z]?)[^\n]*")
NO_MODULE: Final = "this is no PTX module"
_BODY: Final = re.compile("[{;]")
_WORD: Final = re.compile(r"[\w.%$]+")
_WAITS: Final = "a block may wait for what another one writes"
# A kernel in which a word begins so, and does not hold what comes second, is one whose blocks
# cannot be launched one at a time, in any order.
REFUSALS: Final = (
    ("barrier.cluster", "", "its blocks form clusters that begin together"),
    ("mapa", "", "its blocks form clusters that begin together"),
    ("%cluster", "", "its blocks form clusters that begin together"),
    ("%nclusterid", "", "its blocks form clusters that begin together"),
    (".reqnctapercluster", "", "its blocks form clusters that begin together"),
    (".explicitcluster", "", "its blocks form clusters that begin together"),
    ("griddepcontrol", "", "another grid begins before this one has ended"),
    ("cudaCGSynchronizeGrid", "", "its blocks wait for each other (a cooperative launch)"),
    ("cudaCGGetIntrinsicHandle", "", "its blocks wait for each other (a cooperative launch)"),
    ("%envreg1", "", "its blocks wait for each other (a cooperative launch)"),
    ("%envreg2", "", "its blocks wait for each other (a cooperative launch)"),
    ("ld.acquire", ".shared", _WAITS),
    ("ld.volatile", ".shared", _WAITS),
    ("ld.relaxed", ".shared", _WAITS),
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Where it stands in the text: from `.entry`, the end of its parameters, and its body from
    brace to brace. `parameters` are their declarations, each without its `.param`."""

    name: str
    parameters: tuple[str, ...]
    begin: int
    parameters_end: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Target:
    """`.version` and `.target sm_NN`; `exact` for one such as sm_90a, which runs nowhere else."""

    version: tuple[int, int]
    sm: int
    exact: bool

    @property
    def line(self) -> str:
        return f".target sm_{self.sm}{'a' if self.exact else ''}"


def blanked(source: str) -> str:
    """The text with comments and strings made spaces, every character in its place."""
    return _SKIPPED.sub(lambda m: " " * len(m.group()), source)


def uncommented(source: str) -> str:
    """The text with comments made spaces, every character in its place."""
    return _SKIPPED.sub(
        lambda m: m.group() if m.group()[0] == '"' else " " * len(m.group()), source
    )


def target_of(plain: str) -> Target | None:
    """None: this is no PTX module."""
    version, target = _VERSION.search(plain), _TARGET.search(plain)
    if version is None or target is None:
        return None
    number = int(version.group(1)), int(version.group(2))
    return Target(number, int(target.group(1)), bool(target.group(2)))


def kernels_of(plain: str) -> list[Kernel]:
    """Every kernel with a body; `plain` has no comments."""
    found = list[Kernel]()
    for entry in _ENTRY.finditer(plain):
        opened = entry.end()
        if found and opened <= found[-1].end:
            continue
        has = plain[opened : opened + 1] == "("
        closed = _closing(plain, opened, "()") if has else opened
        begun = _BODY.search(plain, closed)
        if begun is None or begun.group() == ";":
            continue  # declared only
        body = begun.start()
        listed = plain[opened + 1 : closed].split(",") if has else []
        words = tuple(" ".join(each.split()).removeprefix(".param ") for each in listed)
        end = _closing(plain, body, "{}")
        kept = tuple(each for each in words if each)
        found.append(Kernel(entry.group(1), kept, entry.start(), closed, body + 1, end))
    return found


def refusal(text: str) -> str:
    """Why blocks of this kernel cannot be launched one at a time; "" when they can."""
    for word in _WORD.finditer(text):
        for begins, unless, why in REFUSALS:
            if word.group().startswith(begins) and not (unless and unless in word.group()):
                return why
    return ""


def name_of(parameter: str) -> str:
    """The name in a parameter's declaration."""
    return parameter.split("[")[0].split()[-1]


def _closing(plain: str, at: int, pair: str) -> int:
    depth = 0
    for place in range(at, len(plain)):
        depth += (plain[place] == pair[0]) - (plain[place] == pair[1])
        if not depth:
            return place
    return len(plain)
