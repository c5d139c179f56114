// SPDX-License-Identifier: Apache-2.0
#include "tests/machines/firmware.h"

// 64 KiB that end at 4 GiB, and are seen below 1 MiB too. ebp counts the sweeps, ebx the parts of them; a
// page holds its address plus the number of the sweep that wrote it in every word.
asm(R"(
    .pushsection .rodata
    .set FIRST, 0x100000
    .set END, 0x900000
    .set PART, 0x400000
    .set COM1, 0x3f8
    .macro  print text
    movl    $(0xf0000 + \text - haul_test_firmware), %esi
    call    say
    .endm
haul_test_firmware:
    .code16
    lgdtl   %cs:(segments_of - haul_test_firmware)
    movl    %cr0, %eax
    orb     $1, %al
    movl    %eax, %cr0
    ljmpl   $8, $(0xf0000 + flat - haul_test_firmware)
    .code32
flat:
    movw    $16, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $0x8000, %esp
    xorl    %ebx, %ebx
    xorl    %ebp, %ebp
    cld
sweep:
    movl    $FIRST, %edi
page:
    testl   %ebp, %ebp
    jz      write
    leal    -1(%edi,%ebp), %eax
    movl    $1024, %ecx
    repe scasl
    jne     bad
    subl    $4096, %edi
write:
    leal    (%edi,%ebp), %eax
    movl    $1024, %ecx
    rep stosl
    testl   $(PART - 1), %edi
    jnz     next
    incl    %ebx
    print   ok
    movl    %ebx, %eax
    call    number
    print   line
next:
    cmpl    $END, %edi
    jb      page
    incl    %ebp
    print   swept
    movl    %ebp, %eax
    call    number
    print   whole
    jmp     sweep
bad:
    print   wrong
    movl    %edi, %eax
    call    number
    print   line
    hlt
say: # the text at esi
    movw    $COM1, %dx
    lodsb
    testb   %al, %al
    jz      said
    outb    %al, %dx
    jmp     say
number: # eax in decimal
    xorl    %edx, %edx
    movl    $10, %ecx
    divl    %ecx
    pushl   %edx
    testl   %eax, %eax
    jz      digit
    call    number
digit:
    popl    %eax
    addb    $'0', %al
    movw    $COM1, %dx
    outb    %al, %dx
said:
    ret
ok:
    .asciz  "ok "
swept:
    .asciz  "sweep "
whole:
    .asciz  " ok\n"
wrong:
    .asciz  "BAD at "
line:
    .asciz  "\n"
    .balign 8
segments: # none, code, data: all of 4 GiB
    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
segments_of:
    .word   . - segments - 1
    .long   0xf0000 + segments - haul_test_firmware
    .org    haul_test_firmware + 0xfff0 # the reset vector
    .code16
    ljmp    $0xf000, $0
    .org    haul_test_firmware + 0x10000
    .code64
    .popsection
)");

extern "C" const char haul_test_firmware[65536];

namespace haul_test
{

std::string firmware()
{
    return {haul_test_firmware, sizeof haul_test_firmware};
}

} // namespace haul_test
