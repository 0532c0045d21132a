"""Kernels in PTX that look before they begin whether they may: text in, text out.

To each kernel a prologue is added that reads a flag in one thread and makes the answer that of the
whole block, so that never a part of a block leaves.

* minimal   flag 1: the block ends. It must be run again by somebody who knows which did.
* exact     flag 1: the block sets its bit in a bitmap and ends. Flag 2, the launch that repairs:
            only blocks whose bit is set run, and clear it. Flag 3, a repair that is taken back:
            the block ends, and the bits stay. However often a grid is torn, each block runs once,
            whatever it does: a block ends at its very beginning or runs through.

What a kernel is given is its ticket, one parameter of 64 bits; 0: it runs as it did. Its upper bits
are the address of the control block, aligned to ARENA bytes: {u32 flag, u32 torn}, and from BITMAP
on the bits. The lower ones are a number, not 0, that tells launches apart: a block that leaves
writes it to `torn`. The stream behind the launch waits until `torn` is 0, so that nothing ever runs
behind a torn grid but its repair.

Where the compiler's own launcher passes a last parameter that nobody else uses, that one is the
ticket (Triton's profile_scratch); else one is added.

A kernel is refused, and stays as it is, where a block that ends early could keep others waiting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .ptx import NO_MODULE, Kernel, blanked, kernels_of, name_of, refusal, target_of

ARENA: Final = 1 << 18  # what control blocks are aligned to, their size, and one more than numbers
BITMAP: Final = 64  # where the bits begin in a control block
BLOCKS_MOST: Final = (ARENA - BITMAP) * 8
YIELDS: Final = "_reef_yields"  # a variable of this name, after the kernel's, marks one that does
TICKET: Final = "_reef_ticket"
TOO_OLD: Final = "its PTX is older than 6.0 or sm_70"
NO_TICKET: Final = "its last parameter is not one of 64 bits"


class Form(StrEnum):
    MINIMAL = "minimal"
    EXACT = "exact"


class Carrier(StrEnum):
    """Which parameter is the ticket."""

    ADDED = "added"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Injected:
    """`refused` says of each kernel that was left alone why."""

    text: str
    kernels: tuple[str, ...]
    refused: Mapping[str, str]


def inject(source: str, form: Form = Form.EXACT, carrier: Carrier = Carrier.ADDED) -> Injected:
    """Add the prologue to every kernel of a PTX module that can bear it."""
    plain = blanked(source)
    refused, done = dict[str, str](), list[str]()
    old = _too_old(plain)
    pieces, at = [], 0
    for number, kernel in enumerate(kernels_of(plain)):
        why = old or refusal(plain[kernel.begin : kernel.end]) or _ticketless(kernel, carrier)
        if why:
            refused[kernel.name] = why
            continue
        done.append(kernel.name)
        if carrier is Carrier.ADDED:
            ticket = kernel.name + TICKET
            pieces.append(source[at : kernel.parameters_end])
            listed = source[kernel.parameters_end] == ")"
            comma = "," if kernel.parameters else "" if listed else "("
            pieces.append(f"\n{comma}\t.param .u64 {ticket}\n{'' if listed else ')'}")
            at = kernel.parameters_end
        else:
            ticket = name_of(kernel.parameters[-1])
        pieces += [source[at : kernel.body], prologue(ticket, number, form)]
        at = kernel.body
    return Injected(_marked("".join([*pieces, source[at:]]), done), tuple(done), refused)


def _too_old(plain: str) -> str:
    target = target_of(plain)
    if target is None:
        return NO_MODULE
    return TOO_OLD if target.version < (6, 0) or target.sm < 70 else ""


def _ticketless(kernel: Kernel, carrier: Carrier) -> str:
    if carrier is Carrier.ADDED:
        return ""
    words = kernel.parameters[-1].split() if kernel.parameters else [""]
    return "" if words[0] in (".u64", ".b64", ".s64") and "[" not in words[-1] else NO_TICKET


def _marked(text: str, kernels: list[str]) -> str:
    """A kernel that yields says so, however its module is compiled, cached and loaded."""
    plain = blanked(text)
    begun = re.search(r"\.address_size\s*\d+", plain) or re.search(r"\.target[^\n]*", plain)
    if begun is None or not kernels:
        return text
    marks = [f"\n.visible .global .align 4 .u32 {kernel}{YIELDS} = 1;" for kernel in kernels]
    return text[: begun.end()] + "".join(marks) + text[begun.end() :]


_READ: Final = """
	.reg .pred %reef_p<6>;
	.reg .b32 %reef_r<14>;
	.reg .b64 %reef_d<5>;
	ld.param.u64 %reef_d0, [{ticket}];
	setp.eq.u64 %reef_p0, %reef_d0, 0;
	@%reef_p0 bra.uni $reef_run_{number};
	and.b64 %reef_d1, %reef_d0, -262144;
	mov.u32 %reef_r0, %tid.x;
	mov.u32 %reef_r1, %tid.y;
	or.b32 %reef_r0, %reef_r0, %reef_r1;
	mov.u32 %reef_r1, %tid.z;
	or.b32 %reef_r0, %reef_r0, %reef_r1;
	setp.eq.u32 %reef_p0, %reef_r0, 0;
	mov.u32 %reef_r2, 0;
	@%reef_p0 ld.relaxed.sys.global.u32 %reef_r2, [%reef_d1];
	setp.ne.u32 %reef_p1, %reef_r2, 0;
	bar.red.or.pred %reef_p2, 0, %reef_p1;
"""
_MINIMAL: Final = """	@%reef_p2 ret;
$reef_run_{number}:
"""
_EXACT: Final = """	@!%reef_p2 bra.uni $reef_run_{number};
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
	mul.wide.u32 %reef_d2, %reef_r6, 4;
	add.u64 %reef_d2, %reef_d2, %reef_d1;
	setp.eq.u32 %reef_p3, %reef_r2, 2;
	not.b32 %reef_r9, %reef_r8;
	mov.u32 %reef_r10, 0;
	@%reef_p3 atom.relaxed.gpu.global.and.b32 %reef_r10, [%reef_d2+64], %reef_r9;
	and.b32 %reef_r10, %reef_r10, %reef_r8;
	setp.ne.u32 %reef_p4, %reef_r10, 0;
	bar.red.or.pred %reef_p5, 0, %reef_p4;
	@%reef_p5 bra.uni $reef_run_{number};
	setp.ne.u32 %reef_p4, %reef_r2, 1;
	@%reef_p4 bra $reef_leave_{number};
	red.relaxed.gpu.global.or.b32 [%reef_d2+64], %reef_r8;
	cvt.u32.u64 %reef_r11, %reef_d0;
	and.b32 %reef_r11, %reef_r11, 262143;
	st.relaxed.gpu.global.u32 [%reef_d1+4], %reef_r11;
$reef_leave_{number}:
	ret;
$reef_run_{number}:
"""
PROLOGUE: Final = {Form.MINIMAL: _READ + _MINIMAL, Form.EXACT: _READ + _EXACT}


def prologue(ticket: str, number: int, form: Form) -> str:
    return PROLOGUE[form].replace("{ticket}", ticket).replace("{number}", str(number))
