"""Two kernels in PTX made one grid, for padding: the first blocks run the real-time kernel, those
behind them a slice of the best-effort kernel.

Each side sees its own block and grid numbers, its own parameters, and the same shared memory, as
large as the larger needs. What runs where is said at launch, by parameters behind those of both:
`split` blocks of the real-time kernel, the number of the slice's first block, and both grids. With
a split of 0 it is the slice alone. Blocks are the larger of both; of a smaller one, the threads
that are too many end at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .ptx import (
    NO_MODULE,
    Kernel,
    Target,
    blanked,
    kernels_of,
    name_of,
    refusal,
    target_of,
    uncommented,
)

AXES: Final = "xyz"
SHARED: Final = "reef_shared"
DYNAMIC: Final = "reef_dynamic"
PARAMETER_BYTES: Final = 4096
THREADS: Final = 1024
_NAME: Final = re.compile(r"(?<![\w$%.])([%$A-Za-z_][\w$]*)(\.[xyz]\b)?(\s*\+\s*\d+)?")
_REGISTERS: Final = re.compile(r"\.reg\s+\.\w+\s+([^;]*);")
_LABEL: Final = re.compile(r"^\s*([$A-Za-z_][\w$]*)\s*:", re.MULTILINE)
_VARIABLE: Final = re.compile(r"(?<!\w)\.(shared|global|const|texref)\b([^;={]*)")
_SHARED_LINE: Final = re.compile(r"^\s*\.shared\b[^;]*;", re.MULTILINE)
_DEBUG: Final = re.compile(r"^\s*\.loc\b[^\n]*$", re.MULTILINE)
_SIZES: Final = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}
_REFUSED: Final = {
    "call": "it calls functions",
    "setmaxnreg": "its warps change how many registers they have",
    "tcgen05": "its blocks wait for each other's tensor memory",
    "%dynamic_smem_size": "it asks how much shared memory it was given",
    "%total_smem_size": "it asks how much shared memory it was given",
    "%aggr_smem_size": "it asks how much shared memory it was given",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One kernel of a module, and the shape of its blocks."""

    source: str
    kernel: str
    block: tuple[int, int, int]

    @property
    def threads(self) -> int:
        x, y, z = self.block
        return x * y * z


@dataclass(frozen=True, slots=True)
class Fused:
    """`parameters` counts those of the real-time and of the best-effort side; ten of 32 bits come
    behind: split, first, and the grids. `shared_bytes` is what it has of shared memory by itself;
    a launch gives it the larger of what both would have been given besides."""

    text: str
    name: str
    threads: int
    parameters: tuple[int, int]
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class _Variable:
    space: str
    name: str
    bytes: int  # 0: as much as the launch says
    align: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One side as it was found. `shared` is where its arrays are in the memory of both."""

    side: Side
    tag: str
    target: Target
    kernel: Kernel
    body: str
    shared: Mapping[str, str]
    shared_bytes: int
    align: int


def fuse(rt: Side, be: Side, name: str = "reef_fused") -> tuple[Fused | None, str]:
    """The module of one kernel, or None with the reason why these two cannot be one grid."""
    found = []
    for side, tag in ((rt, "rt"), (be, "be")):
        part, why = _part(side, tag)
        if part is None:
            return None, f"{side.kernel}: {why}"
        found.append(part)
    one, other = found
    threads = max(rt.threads, be.threads)
    why = _unlike(one.target, other.target) or _odd(rt, threads) or _odd(be, threads)
    if not why and _parameter_bytes(one) + _parameter_bytes(other) > PARAMETER_BYTES:
        why = f"their parameters are more than {PARAMETER_BYTES} bytes"
    if why:
        return None, why
    shared_bytes = max(one.shared_bytes, other.shared_bytes)
    text = _module(name, one, other, threads, shared_bytes)
    counts = len(one.kernel.parameters), len(other.kernel.parameters)
    return Fused(text, name, threads, counts, shared_bytes), ""


# -- what cannot be --------------------------------------------------------------------------------


def _part(side: Side, tag: str) -> tuple[_Part | None, str]:
    plain, target = blanked(side.source), target_of(blanked(side.source))
    kernel = next((k for k in kernels_of(plain) if k.name == side.kernel), None)
    if target is None or kernel is None:
        return None, NO_MODULE if target is None else "its module has no such kernel"
    body = _DEBUG.sub("", uncommented(side.source)[kernel.body : kernel.end])
    before = plain[: kernel.begin] + plain[kernel.end :]
    outside = [v for v in _variables(_outside(before)) if _mentions(body, v.name)]
    why = refusal(plain[kernel.begin : kernel.end]) or _refused(plain[kernel.body : kernel.end])
    if not why and any(v.space != "shared" for v in outside):
        why = "it uses variables of its module"
    if not why and target.sm < 70:
        why = "its threads cannot end before others (older than sm_70)"
    if why:
        return None, why
    places, at, align = dict[str, str](), 0, 1
    for variable in [*outside, *_variables(body)]:
        align = max(align, variable.align)
        if not variable.bytes:
            places[variable.name] = DYNAMIC
            continue
        at = -(-at // variable.align) * variable.align
        places[variable.name] = f"{SHARED}+{at}"
        at += variable.bytes
    return _Part(side, tag, target, kernel, body, places, at, align), ""


def _refused(body: str) -> str:
    for word in re.findall(r"[%\w]+(?:\.[xyz]\b)?", body):
        if word in _REFUSED:
            return _REFUSED[word]
        if word in ("%ctaid", "%nctaid", "%tid", "%ntid"):
            return "it reads its numbers as a vector"
    return ""


def _unlike(one: Target, other: Target) -> str:
    if one.sm != other.sm and (one.exact or other.exact):
        return f"one is for sm_{one.sm}, the other for sm_{other.sm}, and not for others"
    return ""


def _odd(side: Side, threads: int) -> str:
    if side.threads > THREADS or not side.threads:
        return f"{side.kernel}: no block has {side.threads} threads"
    if side.threads < threads and side.threads % 32:
        return f"{side.kernel}: {side.threads} threads are not whole warps; no block can be larger"
    return ""


def _parameter_bytes(part: _Part) -> int:
    at = 0
    for declared in part.kernel.parameters:
        each, align = _bytes_of(declared), _align_of(declared)
        at = -(-at // align) * align + each
    return at + 16


def _outside(text: str) -> str:
    """What stands in no braces: bodies of functions have variables of their own."""
    depth, kept = 0, []
    for letter in text:
        depth -= letter == "}"
        if not depth:
            kept.append(letter)
        depth += letter == "{"
    return "".join(kept)


def _variables(text: str) -> list[_Variable]:
    found = []
    for declared in _VARIABLE.finditer(text):
        words = declared.group(2)
        if re.search(r"[%=]", words) or not words.strip():
            continue  # an instruction: ld.shared, st.global
        name = name_of(words.strip())
        each = 0 if "[]" in words.replace(" ", "") else _bytes_of(words)
        found.append(_Variable(declared.group(1), name, each, _align_of(words)))
    return found


def _bytes_of(declared: str) -> int:
    kind = re.search(r"\.[busf](8|16|32|64|128)\b", declared)
    count = 1
    for length in re.findall(r"\[\s*(\d+)\s*\]", declared):
        count *= int(length)
    return (_SIZES[kind.group(1)] if kind else 8) * count


def _align_of(declared: str) -> int:
    said = None if ".ptr" in declared else re.search(r"\.align\s+(\d+)", declared)
    own = _bytes_of(re.sub(r"\[[^\]]*\]", "", declared))
    return int(said.group(1)) if said else own


def _mentions(body: str, name: str) -> bool:
    return re.search(rf"(?<![\w$%.]){re.escape(name)}(?![\w$])", body) is not None


# -- one text --------------------------------------------------------------------------------------


def _module(name: str, one: _Part, other: _Part, threads: int, shared_bytes: int) -> str:
    newer = max((one, other), key=lambda part: (part.target.sm, part.target.exact))
    major, minor = max(one.target.version, other.target.version)
    align = max(one.align, other.align)
    head = [f".version {major}.{minor}", newer.target.line, ".address_size 64"]
    if shared_bytes:
        head.append(f".shared .align {align} .b8 {SHARED}[{shared_bytes}];")
    if DYNAMIC in [*one.shared.values(), *other.shared.values()]:
        head.append(f".extern .shared .align {align} .b8 {DYNAMIC}[];")
    parameters = [
        *_parameters(one),
        *_parameters(other),
        *(f".param .u32 reef_{word}" for word in ("split", "first")),
        *(f".param .u32 reef_{part.tag}_{axis}" for part in (one, other) for axis in AXES),
    ]
    return "\n".join(
        [
            *head,
            f".visible .entry {name}(\n\t" + ",\n\t".join(parameters) + "\n)",
            f".reqntid {threads}, 1, 1",
            "{",
            "\t.reg .pred %reef_beside;",
            "\t.reg .b32 %reef_block, %reef_split, %reef_first;",
            "\tmov.u32 %reef_block, %ctaid.x;",
            "\tld.param.u32 %reef_split, [reef_split];",
            "\tsetp.ge.u32 %reef_beside, %reef_block, %reef_split;",
            "\t@%reef_beside bra.uni $reef_beside;",
            _numbers(one, threads),
            _body(one),
            "\tret;",
            "$reef_beside:",
            "\tld.param.u32 %reef_first, [reef_first];",
            "\tsub.u32 %reef_block, %reef_block, %reef_split;",
            "\tadd.u32 %reef_block, %reef_block, %reef_first;",
            _numbers(other, threads),
            _body(other),
            "\tret;",
            "}\n",
        ]
    )


def _parameters(part: _Part) -> list[str]:
    found = []
    for number, declared in enumerate(part.kernel.parameters):
        old, new = name_of(declared), f"reef_{part.tag}_p{number}"
        begin = declared.rindex(old)
        found.append(f".param {declared[:begin]}{new}{declared[begin + len(old) :]}")
    return found


def _numbers(part: _Part, threads: int) -> str:
    """Where this block is in its own grid and, where blocks differ, its threads in their block."""
    t = f"%{part.tag}_reef"
    lines = [
        f".reg .b32 {t}_ctaid<3>, {t}_nctaid<3>, {t}_rest;",
        *(f"ld.param.u32 {t}_nctaid{n}, [reef_{part.tag}_{axis}];" for n, axis in enumerate(AXES)),
        f"rem.u32 {t}_ctaid0, %reef_block, {t}_nctaid0;",
        f"div.u32 {t}_rest, %reef_block, {t}_nctaid0;",
        f"rem.u32 {t}_ctaid1, {t}_rest, {t}_nctaid1;",
        f"div.u32 {t}_ctaid2, {t}_rest, {t}_nctaid1;",
    ]
    if part.side.threads < threads:
        lines += [
            f".reg .pred {t}_over;",
            f"mov.u32 {t}_rest, %tid.x;",
            f"setp.ge.u32 {t}_over, {t}_rest, {part.side.threads};",
            f"@{t}_over ret;",
        ]
    if _reshaped(part):
        x, y, _ = part.side.block
        lines += [
            f".reg .b32 {t}_tid<3>;",
            f"mov.u32 {t}_rest, %tid.x;",
            f"rem.u32 {t}_tid0, {t}_rest, {x};",
            f"div.u32 {t}_rest, {t}_rest, {x};",
            f"rem.u32 {t}_tid1, {t}_rest, {y};",
            f"div.u32 {t}_tid2, {t}_rest, {y};",
        ]
    return "\n".join(f"\t{line}" for line in lines)


def _reshaped(part: _Part) -> bool:
    return part.side.block[1:] != (1, 1)


def _body(part: _Part) -> str:
    """The kernel's instructions with every name of theirs made this side's own."""
    tag, body = part.tag, part.body
    registers, families = set[str](), set[str]()
    for listed in _REGISTERS.findall(body):
        for word in listed.split(","):
            name, family, _ = word.strip().partition("<")
            (families if family else registers).add(name)
    labels = set(_LABEL.findall(body))
    names = {name_of(p): f"reef_{tag}_p{n}" for n, p in enumerate(part.kernel.parameters)}

    def renamed(found: re.Match[str]) -> str:
        name, axis, offset = found.group(1), found.group(2) or "", found.group(3) or ""
        rest = axis + offset
        if name in part.shared:
            return _shared(part.shared[name], offset) + axis
        if name in names:
            return names[name] + rest
        if axis and (number := _number(part, name, AXES.index(axis[1]))):
            return number + offset
        if name in registers or name.rstrip("0123456789") in families or name in families:
            return f"%{tag}_{name.removeprefix('%')}{rest}"
        return f"{name}_{tag}{rest}" if name in labels else found.group()

    kept = "\n".join(line for line in _SHARED_LINE.sub("", body).split("\n") if line.strip())
    return _NAME.sub(renamed, kept)


def _number(part: _Part, name: str, axis: int) -> str:
    if name in ("%ctaid", "%nctaid"):
        return f"%{part.tag}_reef_{name[1:]}{axis}"
    if name == "%ntid":
        return str(part.side.block[axis])
    return f"%{part.tag}_reef_tid{axis}" if name == "%tid" and _reshaped(part) else ""


def _shared(place: str, offset: str) -> str:
    base, _, at = place.partition("+")
    sum_ = int(at or 0) + int(offset.replace("+", "") or 0)
    return f"{base}+{sum_}" if sum_ else base
