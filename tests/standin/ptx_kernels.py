"""Kernels in PTX that tests launch, small enough to be carried out by the stand-in driver."""

from __future__ import annotations

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
_INDEX = """
	mov.u32 %r0, %ctaid.z;
	mov.u32 %r1, %nctaid.y;
	mov.u32 %r2, %ctaid.y;
	mad.lo.u32 %r0, %r0, %r1, %r2;
	mov.u32 %r1, %nctaid.x;
	mov.u32 %r2, %ctaid.x;
	mad.lo.u32 %r0, %r0, %r1, %r2;
	mov.u32 %r1, %ntid.x;
	mov.u32 %r2, %tid.x;
	mad.lo.u32 %r0, %r0, %r1, %r2;
	mul.wide.u32 %d1, %r0, 4;
"""

# x = 5 x + number, in place, after `ns` nanoseconds: running a block twice, or not, shows for ever.
WORK = (
    HEAD
    + """
.visible .entry work(
	.param .u64 work_p0,  // numbers, one for each thread
	.param .u32 work_p1,  // number
	.param .u32 work_p2   // ns
)
{
	.reg .b32 %r<8>;
	.reg .b64 %d<4>;
"""
    + _INDEX
    + """
	ld.param.u64 %d0, [work_p0];
	ld.param.u32 %r3, [work_p1];
	ld.param.u32 %r4, [work_p2];
	add.u64 %d2, %d0, %d1;
	ld.global.u32 %r5, [%d2];
	nanosleep.u32 %r4;
	bar.sync 0;
	mad.lo.u32 %r5, %r5, 5, %r3;
	st.global.u32 [%d2], %r5;
	ret;
}
"""
)

# Counts the threads whose number is not what it is to be. It reads as one that may wait does, so it
# is left alone, and runs through.
CHECK = (
    HEAD
    + """
.visible .entry check(
	.param .u64 check_p0,  // numbers
	.param .u32 check_p1,  // what they are to be
	.param .u64 check_p2   // how many are not
)
{
	.reg .pred %p<2>;
	.reg .b32 %r<8>;
	.reg .b64 %d<4>;
"""
    + _INDEX
    + """
	ld.param.u64 %d0, [check_p0];
	ld.param.u32 %r3, [check_p1];
	ld.param.u64 %d3, [check_p2];
	add.u64 %d2, %d0, %d1;
	ld.volatile.global.u32 %r4, [%d2];
	setp.eq.u32 %p0, %r4, %r3;
	@%p0 bra $same;
	red.relaxed.gpu.global.add.u32 [%d3], 1;
$same:
	ret;
}
"""
)


def after(launches: int) -> int:
    """What a number is that was 0, after so many launches of `work`, numbered from 1."""
    number = 0
    for launch in range(1, launches + 1):
        number = (5 * number + launch) & 0xFFFFFFFF
    return number
