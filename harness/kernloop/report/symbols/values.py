# SPDX-License-Identifier: Apache-2.0
"""What a 64-bit value in a register is: one that the kernel puts there on purpose, or that no pointer can be.

From include/linux/poison.h, include/linux/err.h, include/linux/errno.h, arch/x86/Kconfig (ILLEGAL_POINTER_VALUE and
KASAN_SHADOW_OFFSET), and arch/x86/include/asm/page_64_types.h for which addresses are canonical.
"""

from __future__ import annotations

import errno

__all__ = ["beside_poison", "is_error", "is_null", "meaning", "poison"]

_ALL = (1 << 64) - 1
_PAGE = 0x1000
# x86-64, arm64, riscv, s390 and loongarch; powerpc's is another.
_DELTA = 0xDEAD << 48
_POINTERS = {
    0x100: "LIST_POISON1: `next` of a list entry that was already deleted",
    0x122: "LIST_POISON2: `prev` (`pprev`) of a list entry that was already deleted",
    0x300: "TIMER_ENTRY_STATIC: a timer that is not initialised",
    0x400: "TAIL_MAPPING: `mapping` of a compound page's tail",
    0x500: "MUTEX_POISON_WW_CTX: a wait/wound mutex's context after its end",
    0x800: "SKB_LIST_POISON_NEXT: an skb that is on no list",
    0x801: "NET_PTR_POISON: a network pointer that is not to be used any more",
    0x40: "PP_SIGNATURE: a page of a page pool",
    0xEB9F: "BPF_PTR_POISON: a pointer that the BPF verifier replaces",
    0xF5: "VFS_PTR_POISON",
    0x1091: "IO_URING_PTR_POISON",
    0xD390: "STACK_DEPOT_POISON",
}
_LISTS = (0x100, 0x122)
_BYTES = {
    0x6B: "POISON_FREE: slab memory that was freed",
    0x5A: "POISON_INUSE: slab memory that was allocated and never written",
    0xA5: "POISON_END: the end of a slab object",
    0xAA: "PAGE_POISON: a page that was freed; or a local variable that was never written (INIT_STACK_ALL_PATTERN)",
    0xCC: "POISON_FREE_INITMEM: code or data of __init that was freed; or SLUB_RED_ACTIVE: behind a slab object",
    0xBB: "SLUB_RED_INACTIVE: behind a slab object that is free",
    0xA7: "POOL_POISON_FREED: a DMA pool's block that was freed",
    0xA9: "POOL_POISON_ALLOCATED: a DMA pool's block that was never written",
    0x5B: "JBD_POISON_FREE: freed by the journal",
    0x5C: "JBD2_POISON_FREE: freed by the journal",
}
_KASAN_SHADOW = {0xDFFFFC << 40: "KASAN_SHADOW_OFFSET", 0xDFFF8 << 44: "KASAN_SHADOW_OFFSET"}
# Errors that never leave the kernel (include/linux/errno.h).
_INTERNAL = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    518: "EOPENSTALE",
    519: "ENOPARAM",
    524: "ENOTSUPP",
    529: "EIOCBQUEUED",
}
_MAX_ERRNO = 4095
# Below it is what a member of a null pointer's struct can have: no struct is larger, and mmap_min_addr is 64 KiB.
_NULL = 0x10000


def is_null(address: int) -> bool:
    """Whether an address is one that a null pointer with an offset gives."""
    return address < _NULL


def is_error(value: int) -> str:
    """The error's name where the value is one (IS_ERR_VALUE), else nothing."""
    number = (1 << 64) - value
    if not 0 < number <= _MAX_ERRNO:
        return ""
    return "-" + (_INTERNAL.get(number) or errno.errorcode.get(number) or str(number))


def meaning(value: int, machine: str = "EM_X86_64") -> str:
    """What the value is, in words with the kernel's name of it; empty for an ordinary one.

    >>> meaning(0xdead000000000122)
    'LIST_POISON2: `prev` (`pprev`) of a list entry that was already deleted'
    >>> meaning(0x6b6b6b6b6b6b6b93)
    'POISON_FREE: slab memory that was freed, plus 0x28'
    """
    if is_null(value):
        return ""
    if word := is_error(value):
        also = ", or simply -1" if value == _ALL else ""
        return f"the error {word} in a pointer that was not tested by IS_ERR(){also}"
    return poison(value) or _KASAN_SHADOW.get(value, "") or _impossible(value, machine)


def poison(value: int) -> str:
    """What the value is when it is one of poison.h; empty otherwise."""
    for offset, words in _POINTERS.items():
        if value == _DELTA + offset:
            return words
    if near := beside_poison(value):
        return near
    for byte, words in _BYTES.items():
        whole = int.from_bytes(bytes([byte]) * 8, "big")
        if 0 <= value - whole < _PAGE:
            return words + (f", plus {value - whole:#x}" if value != whole else "")
    # An object's last word: seven bytes of freed memory and the byte behind.
    if value >> 56 == 0xA5 and value & (1 << 56) - 1 == 0x6B6B6B6B6B6B6B:
        return "POISON_FREE and POISON_END: the last word of a freed slab object"
    return ""


def beside_poison(value: int) -> str:
    """What an address is that a poisoned pointer leads to, member's offset and all; empty for others."""
    if not 0 <= value - _DELTA < _PAGE:
        return ""
    # A member of what it points to, or (container_of()) what it is a member of: either may be meant.
    first, second = (f"{value - _DELTA - poisoned:+#x}" for poisoned in _LISTS)
    return (
        f"POISON_POINTER_DELTA {value - _DELTA:+#x}: a poisoned pointer; of a list entry that was already deleted it is"
        f" LIST_POISON1 {first} or LIST_POISON2 {second}"
    )


def _impossible(value: int, machine: str) -> str:
    text = value.to_bytes(8, "little")
    if all(0x20 <= byte < 0x7F for byte in text):
        return f"the text {text.decode()!r}: something wrote a string over the pointer"
    if machine != "EM_X86_64":
        return ""
    # 57 bits with five-level page tables; what is not canonical with them is so with four levels as well.
    if 0 < value >> 56 < 0xFF:
        return "no canonical address: the pointer was overwritten, or is none"
    if value < 1 << 47:
        return "an address of user space"
    return ""
