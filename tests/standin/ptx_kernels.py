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


# out[block, thread] = out[block, thread] * 3 + the number of the thread that is opposite in its
# block, by way of shared memory; blocks of x * y threads, grids of all shapes.
OPPOSITE = (
    HEAD
    + """
.shared .align 8 .b8 hall[2048];
.visible .entry opposite(
	.param .u64 .ptr .global .align 4 opposite_p0,
	.param .u32 opposite_p1
)
{
	.reg .pred %p<2>;
	.reg .b32 %r<20>;
	.reg .b64 %d<4>;
	mov.u32 %r0, %ctaid.z;
	mov.u32 %r1, %nctaid.y;
	mov.u32 %r2, %ctaid.y;
	mad.lo.u32 %r0, %r0, %r1, %r2;
	mov.u32 %r1, %nctaid.x;
	mov.u32 %r2, %ctaid.x;
	mad.lo.u32 %r0, %r0, %r1, %r2;
	mov.u32 %r3, %ntid.x;
	mov.u32 %r4, %ntid.y;
	mul.lo.u32 %r4, %r3, %r4;
	mov.u32 %r5, %tid.y;
	mov.u32 %r6, %tid.x;
	mad.lo.u32 %r5, %r5, %r3, %r6;
	shl.b32 %r7, %r5, 2;
	mov.u32 %r8, hall;
	add.u32 %r9, %r8, %r7;
	st.shared.u32 [%r9+8], %r5;
	bar.sync 0;
	sub.u32 %r10, %r4, %r5;
	shl.b32 %r10, %r10, 2;
	add.u32 %r10, %r8, %r10;
	ld.shared.u32 %r11, [%r10+4];
	mad.lo.u32 %r12, %r0, %r4, %r5;
	mul.wide.u32 %d1, %r12, 4;
	ld.param.u64 %d0, [opposite_p0];
	add.u64 %d2, %d0, %d1;
	ld.global.u32 %r13, [%d2];
	ld.param.u32 %r14, [opposite_p1];
	mad.lo.u32 %r13, %r13, %r14, %r11;
	st.global.u32 [%d2], %r13;
	ret;
}
"""
)

# out[block] = 7 out[block] + the sum of what its threads put into memory that the launch gives,
# each its number; the first word of it is an array of the kernel's own.
SUM = (
    HEAD
    + """
.extern .shared .align 16 .b8 heap[];
.visible .entry sums(
	.param .u64 sums_p0
)
{
	.reg .pred %p<4>;
	.reg .b32 %r<12>;
	.reg .b64 %d<4>;
	.shared .align 4 .u32 total;
	mov.u32 %r0, %tid.x;
	shl.b32 %r1, %r0, 2;
	mov.u32 %r2, heap;
	add.u32 %r2, %r2, %r1;
	st.shared.u32 [%r2], %r0;
	setp.ne.u32 %p0, %r0, 0;
	@%p0 bra $wait;
	st.shared.u32 [total], 0;
$wait:
	bar.sync 0;
	ld.shared.u32 %r3, [%r2];
	red.shared.add.u32 [total], %r3;
	bar.sync 0;
	@%p0 bra $end;
	ld.shared.u32 %r4, [total];
	mov.u32 %r5, %ctaid.y;
	mov.u32 %r6, %nctaid.x;
	mov.u32 %r7, %ctaid.x;
	mad.lo.u32 %r5, %r5, %r6, %r7;
	mul.wide.u32 %d1, %r5, 4;
	ld.param.u64 %d0, [sums_p0];
	add.u64 %d0, %d0, %d1;
	ld.global.u32 %r8, [%d0];
	mad.lo.u32 %r8, %r8, 7, %r4;
	st.global.u32 [%d0], %r8;
$end:
	ret;
}
"""
)
