// What nvcc 13.0 makes of gather.cu, but for its comments and the version of PTX: nothing
// in it is newer than 6.4, so that every driver from CUDA 10.1 on takes it.
// Written by tests/offload/native/kernel_source.py; gather.cu then was
// d33423a6e0d52c8a4b2eece5cecc53e2c56ed7cda9f22d8390776431864c991d.
#include "offload/native/cuda_gather.hpp"

namespace kvatlas::cuda {

const char kGatherPtx[] = R"ptx(.version 6.4
.target sm_75
.address_size 64

	// .globl	kvatlas_gather

.visible .entry kvatlas_gather(
	.param .u64 kvatlas_gather_param_0,
	.param .u64 kvatlas_gather_param_1
)
{
	.reg .pred 	%p<10>;
	.reg .b16 	%rs<2>;
	.reg .b32 	%r<48>;
	.reg .b64 	%rd<59>;


	ld.param.u64 	%rd28, [kvatlas_gather_param_0];
	ld.param.u64 	%rd29, [kvatlas_gather_param_1];
	mov.u32 	%r1, %ctaid.x;
	cvt.u64.u32 	%rd52, %r1;
	setp.ge.u64 	%p1, %rd52, %rd29;
	@%p1 bra 	$L__BB0_12;

	mov.u32 	%r2, %tid.x;
	cvt.u64.u32 	%rd2, %r2;
	mov.u32 	%r3, %ntid.x;
	mul.lo.s32 	%r4, %r3, 3;
	cvt.u64.u32 	%rd3, %r4;
	add.s64 	%rd4, %rd2, %rd3;
	cvt.u64.u32 	%rd5, %r3;
	shl.b32 	%r5, %r3, 1;
	cvt.u64.u32 	%rd6, %r5;
	shl.b32 	%r6, %r3, 2;
	cvt.u64.u32 	%rd7, %r6;
	mov.u32 	%r7, %nctaid.x;
	cvt.u64.u32 	%rd8, %r7;
	cvta.to.global.u64 	%rd9, %rd28;
	shl.b64 	%rd39, %rd6, 4;

$L__BB0_2:
	mul.lo.s64 	%rd31, %rd52, 24;
	add.s64 	%rd32, %rd9, %rd31;
	ld.global.u64 	%rd11, [%rd32+16];
	mov.u64 	%rd57, 0;
	ld.global.u64 	%rd12, [%rd32+8];
	ld.global.u64 	%rd13, [%rd32];
	or.b64  	%rd33, %rd12, %rd13;
	and.b64  	%rd34, %rd33, 15;
	setp.ne.s64 	%p2, %rd34, 0;
	@%p2 bra 	$L__BB0_9;

	shr.u64 	%rd14, %rd11, 4;
	setp.ge.u64 	%p3, %rd4, %rd14;
	mov.u64 	%rd55, %rd2;
	@%p3 bra 	$L__BB0_6;

	mov.u64 	%rd53, %rd4;
	mov.u64 	%rd55, %rd2;

$L__BB0_5:
	shl.b64 	%rd35, %rd55, 4;
	add.s64 	%rd36, %rd12, %rd35;
	shl.b64 	%rd37, %rd5, 4;
	add.s64 	%rd38, %rd36, %rd37;
	ld.v4.u32 	{%r8, %r9, %r10, %r11}, [%rd38];
	add.s64 	%rd40, %rd36, %rd39;
	ld.v4.u32 	{%r16, %r17, %r18, %r19}, [%rd40];
	shl.b64 	%rd41, %rd53, 4;
	add.s64 	%rd42, %rd12, %rd41;
	ld.v4.u32 	{%r24, %r25, %r26, %r27}, [%rd42];
	add.s64 	%rd43, %rd13, %rd35;
	ld.v4.u32 	{%r32, %r33, %r34, %r35}, [%rd36];
	st.v4.u32 	[%rd43], {%r32, %r33, %r34, %r35};
	add.s64 	%rd44, %rd43, %rd37;
	st.v4.u32 	[%rd44], {%r8, %r9, %r10, %r11};
	add.s64 	%rd45, %rd43, %rd39;
	st.v4.u32 	[%rd45], {%r16, %r17, %r18, %r19};
	add.s64 	%rd46, %rd13, %rd41;
	st.v4.u32 	[%rd46], {%r24, %r25, %r26, %r27};
	add.s64 	%rd55, %rd55, %rd7;
	add.s64 	%rd53, %rd55, %rd3;
	setp.lt.u64 	%p4, %rd53, %rd14;
	@%p4 bra 	$L__BB0_5;

$L__BB0_6:
	setp.ge.u64 	%p5, %rd55, %rd14;
	@%p5 bra 	$L__BB0_8;

$L__BB0_7:
	shl.b64 	%rd47, %rd55, 4;
	add.s64 	%rd48, %rd13, %rd47;
	add.s64 	%rd49, %rd12, %rd47;
	ld.v4.u32 	{%r40, %r41, %r42, %r43}, [%rd49];
	st.v4.u32 	[%rd48], {%r40, %r41, %r42, %r43};
	add.s64 	%rd55, %rd55, %rd5;
	setp.lt.u64 	%p6, %rd55, %rd14;
	@%p6 bra 	$L__BB0_7;

$L__BB0_8:
	and.b64  	%rd57, %rd11, -16;

$L__BB0_9:
	add.s64 	%rd58, %rd57, %rd2;
	setp.ge.u64 	%p7, %rd58, %rd11;
	@%p7 bra 	$L__BB0_11;

$L__BB0_10:
	add.s64 	%rd50, %rd12, %rd58;
	ld.u8 	%rs1, [%rd50];
	add.s64 	%rd51, %rd13, %rd58;
	st.u8 	[%rd51], %rs1;
	add.s64 	%rd58, %rd58, %rd5;
	setp.lt.u64 	%p8, %rd58, %rd11;
	@%p8 bra 	$L__BB0_10;

$L__BB0_11:
	add.s64 	%rd52, %rd52, %rd8;
	setp.lt.u64 	%p9, %rd52, %rd29;
	@%p9 bra 	$L__BB0_2;

$L__BB0_12:
	ret;

}
)ptx";

}  // namespace kvatlas::cuda
