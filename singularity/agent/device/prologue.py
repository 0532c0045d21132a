"""Kernels in PTX that look before they begin whether they may: text in, text out.

To each kernel a prologue is added that reads a flag in one thread and makes the answer that of the
whole block, so that never a part of a block leaves.

* minimal   flag 1: the block ends. It must be run again by somebody who knows which did.
* exact     flag 1: the block sets its bit in a bitmap and ends. Flag 2, the launch that repairs:
            only blocks whose bit is set run, and clear it. However often a grid is torn, each
            block runs once, whatever it does: a block ends at its very beginning or runs through.

The control block is {u32 flag, u32 noted} in memory of the device; the bitmap has a word for every
32 blocks. Their addresses are parameters after the kernel's own: NAME_reef_control, and for the
exact form NAME_reef_map.

A kernel is refused, and stays as it is, where a block that ends early could keep others waiting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_ENTRY: Final = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)\s*")
_SKIPPED: Final = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_VERSION: Final = re.compile(r"\.version\s+(\d+)\.(\d+)")
_TARGET: Final = re.compile(r"\.target\s+sm_(\d+)")
_REFUSALS: Final = (
    (re.compile(r"\bbarrier\.cluster|\bmapa\b|%cluster_|\.reqnctapercluster|\.explicitcluster"),
     "its blocks form clusters that begin together"),
    (re.compile(r"\bgriddepcontrol\b"), "another grid begins before this one has ended"),
    (re.compile(r"\bcudaCGSynchronizeGrid\b|\bcudaCGGetIntrinsicHandle\b|%envreg[12]\b"),
     "its blocks wait for each other (a cooperative launch)"),
    (re.compile(r"\bld\.(?:acquire|volatile|relaxed)[\w.]*\.global|\bld\.volatile\.u"),
     "a block may wait for what another one writes"),
)  # fmt: skip


class Form(StrEnum):
    MINIMAL = "minimal"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Injected:
    """`refused` says of each kernel that was left alone why."""

    text: str
    kernels: tuple[str, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Where it stands in the text: the end of its parameters, and its body from brace to brace."""

    name: str
    has_parameters: bool
    parameters_end: int
    begin: int
    body: int
    end: int


def inject(source: str, form: Form = Form.EXACT) -> Injected:
    """Add the prologue to every kernel of a PTX module that can bear it."""
    plain = _SKIPPED.sub(lambda m: " " * len(m.group()), source)
    kernels, refused, done = _kernels(plain), dict[str, str](), list[str]()
    old = _too_old(plain)
    pieces, at = [], 0
    for number, kernel in enumerate(kernels):
        why = old or _refusal(plain[kernel.begin : kernel.end])
        if why:
            refused[kernel.name] = why
            continue
        done.append(kernel.name)
        pieces += [
            source[at : kernel.parameters_end].rstrip(),
            _parameters(kernel, form),
            source[kernel.parameters_end : kernel.body],
            _prologue(kernel.name, number, form),
        ]
        at = kernel.body
    return Injected("".join([*pieces, source[at:]]), tuple(done), refused)


def _too_old(plain: str) -> str:
    version, target = _VERSION.search(plain), _TARGET.search(plain)
    if version is None or target is None:
        return "this is no PTX module"
    if int(version.group(1)) < 6 or int(target.group(1)) < 70:
        return "its PTX is older than 6.0 or sm_70"
    return ""


def _refusal(body: str) -> str:
    return next((why for pattern, why in _REFUSALS if pattern.search(body)), "")


def _kernels(plain: str) -> list[_Kernel]:
    found = []
    for entry in _ENTRY.finditer(plain):
        opened = entry.end()
        has = plain[opened : opened + 1] == "("
        closed = _closing(plain, opened, "()") if has else opened
        body = plain.find("{", closed)
        if body < 0:
            continue  # declared only
        has_any = has and bool(plain[opened + 1 : closed].strip())
        end = _closing(plain, body, "{}")
        found.append(_Kernel(entry.group(1), has_any, closed, entry.start(), body + 1, end))
    return found


def _closing(plain: str, at: int, pair: str) -> int:
    depth = 0
    for place in range(at, len(plain)):
        depth += (plain[place] == pair[0]) - (plain[place] == pair[1])
        if not depth:
            return place
    return len(plain)


def _parameters(kernel: _Kernel, form: Form) -> str:
    names = ["control"] if form is Form.MINIMAL else ["control", "map"]
    added = [f"\n\t.param .u64 {kernel.name}_reef_{name}" for name in names]
    return ("," if kernel.has_parameters else "") + ",".join(added) + "\n"


_READ: Final = """
	.reg .pred %reef_p<6>;
	.reg .b32 %reef_r<12>;
	.reg .b64 %reef_d<4>;
	ld.param.u64 %reef_d0, [{name}_reef_control];
	mov.u32 %reef_r0, %tid.x;
	mov.u32 %reef_r1, %tid.y;
	or.b32 %reef_r0, %reef_r0, %reef_r1;
	mov.u32 %reef_r1, %tid.z;
	or.b32 %reef_r0, %reef_r0, %reef_r1;
	setp.eq.u32 %reef_p0, %reef_r0, 0;
	mov.u32 %reef_r2, 0;
	@%reef_p0 ld.relaxed.sys.global.u32 %reef_r2, [%reef_d0];
	setp.ne.u32 %reef_p1, %reef_r2, 0;
	bar.red.or.pred %reef_p2, 0, %reef_p1;
"""
_EXACT: Final = """	@!%reef_p2 bra $reef_run_{number};
	mov.u32 %reef_r3, %ctaid.z;
	mov.u32 %reef_r4, %nctaid.y;
	mov.u32 %reef_r5, %ctaid.y;
	mad.lo.u32 %reef_r3, %reef_r3, %reef_r4, %reef_r5;
	mov.u32 %reef_r4, %nctaid.x;
	mov.u32 %reef_r5, %ctaid.x;
	mad.lo.u32 %reef_r3, %reef_r3, %reef_r4, %reef_r5;
	shr.u32 %reef_r6, %reef_r3, 5;
	and.b32 %reef_r7, %reef_r3, 31;
	mov.u32 %reef_r8, 1;
	shl.b32 %reef_r8, %reef_r8, %reef_r7;
	ld.param.u64 %reef_d1, [{name}_reef_map];
	mul.wide.u32 %reef_d2, %reef_r6, 4;
	add.u64 %reef_d1, %reef_d1, %reef_d2;
	setp.eq.u32 %reef_p3, %reef_r2, 2;
	not.b32 %reef_r9, %reef_r8;
	mov.u32 %reef_r10, 0;
	@%reef_p3 atom.relaxed.gpu.global.and.b32 %reef_r10, [%reef_d1], %reef_r9;
	and.b32 %reef_r10, %reef_r10, %reef_r8;
	setp.ne.u32 %reef_p4, %reef_r10, 0;
	bar.red.or.pred %reef_p5, 0, %reef_p4;
	@%reef_p5 bra $reef_run_{number};
	setp.ne.u32 %reef_p4, %reef_r2, 1;
	@%reef_p4 bra $reef_leave_{number};
	red.relaxed.gpu.global.or.b32 [%reef_d1], %reef_r8;
	red.relaxed.gpu.global.add.u32 [%reef_d0+4], 1;
$reef_leave_{number}:
	ret;
$reef_run_{number}:
"""


def _prologue(name: str, number: int, form: Form) -> str:
    rest = "\t@%reef_p2 ret;\n" if form is Form.MINIMAL else _EXACT
    return (_READ + rest).format(name=name, number=number)
