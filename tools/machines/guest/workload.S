/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's program: 32-bit protected mode, flat segments, no paging, no stack, no interrupts. It is copied
 * to guest address 0x1000 and is position-independent.
 *
 * It asks the host for a number of pages, rewrites that many pages of the hot set in the fixed order, and asks
 * again. Every page is checked while it is rewritten: each stamp must hold the version before, or the
 * page is reported and the guest halts.
 *
 *   ebx  the version that this cycle writes, from 1        ebp  pages left of what the host asked for
 *   ecx  pages already written in this cycle               edi  address of the page
 *   esi  slot of the next page, ecx * stride mod hot       eax, edx  stamp expected, stamp to write
 */
#include "tools/machines/guest/workload.h"

        .section .rodata
        .globl haul_guest_code_start
        .globl haul_guest_code_end
        .code32
        .p2align 4
haul_guest_code_start:
ask:
        inl     $HAUL_GUEST_PORT_ASK, %eax
        testl   %eax, %eax
        jz      ask
        movl    %eax, %ebp

page:
        movl    %esi, %edi
        shll    $12, %edi
        addl    HAUL_GUEST_HEADER_ADDRESS + HAUL_GUEST_HEADER_HOT_BASE, %edi
        movl    %ebx, %edx
        leal    -1(%ebx), %eax
        movl    %esi, %esp
        notl    %esp
        testl   $HAUL_GUEST_BLINK_MASK, %esp
        jnz     stamp
        /* A blinking slot: of the two versions the even one is written as zero. */
        testl   $1, %ebx
        jz      even
        xorl    %eax, %eax
        jmp     stamp
even:
        xorl    %edx, %edx

        /* Compare with the version before and replace, stamp by stamp. */
stamp:
        .set    offset, 0
        .rept   HAUL_GUEST_STAMPS
        cmpxchgl %edx, offset(%edi)
        jne     fail
        .set    offset, offset + HAUL_GUEST_STAMP_DISTANCE
        .endr

        addl    HAUL_GUEST_HEADER_ADDRESS + HAUL_GUEST_HEADER_STRIDE, %esi
        cmpl    HAUL_GUEST_HEADER_ADDRESS + HAUL_GUEST_HEADER_HOT_PAGES, %esi
        jb      count
        subl    HAUL_GUEST_HEADER_ADDRESS + HAUL_GUEST_HEADER_HOT_PAGES, %esi
count:
        incl    %ecx
        cmpl    HAUL_GUEST_HEADER_ADDRESS + HAUL_GUEST_HEADER_HOT_PAGES, %ecx
        jb      next
        xorl    %ecx, %ecx
        incl    %ebx
next:
        decl    %ebp
        jnz     page
        jmp     ask

fail:
        movl    %edi, %eax
        outl    %eax, $HAUL_GUEST_PORT_FAIL
halt:
        hlt
        jmp     halt
haul_guest_code_end:

        .section .note.GNU-stack, "", @progbits
