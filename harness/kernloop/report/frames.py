# SPDX-License-Identifier: Apache-2.0
"""Stack frames as the kernel prints them, and which of them can be the guilty one.

`%pB` and `%pS` (lib/vsprintf.c, kernel/kallsyms.c) write `symbol+0xoffset/0xsize [module build-id]`; a leading `? ` is
the unwinder's word for "found on the stack, perhaps stale" (arch/x86/kernel/dumpstack.c). Kernels before 4.15 put the
address in `[<...>]` first.

>>> parse_frame("  ? handle_mm_fault+0xcf/0x200 [kvm]")
Frame(function='handle_mm_fault', offset=207, size=512, module='kvm', reliable=False)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .patterns import Pattern

__all__ = ["Frame", "base_name", "guilty", "parse_frame", "rip_function"]

_SYMBOL = (
    r"(?P<func>[A-Za-z_$][\w.$]*)(?:\+(?P<offset>0x[0-9a-f]+)/(?P<size>0x[0-9a-f]+))"
    r"(?: \[(?P<module>[\w-]+)(?: [0-9a-f]+)?\])?"
)
_FRAME = Pattern(rf"^\s*(?:\[<[0-9a-fA-F]+>\]\s*)*(?P<stale>\? )?{_SYMBOL}(?=\s|$)")
_RIP = Pattern(rf"\b(?:RIP|IP|pc)\s?: (?:[0-9a-f]{{4}}:)?(?:\[<[0-9a-fA-F]+>\]\s*)*{_SYMBOL}")
# What the compiler appends to the name of a clone or a split-off cold part.
_TAIL = Pattern(r"(?:\.(?:constprop|isra|part|cold|llvm|lto_priv)(?:\.\d+)*|\.\d+)+$")

# Functions that report, dispatch or wait rather than err: never the guilty one.
_MACHINERY = Pattern(
    r"""^(?:
    dump_stack\w*|__?dump_stack|show_stack|v?panic|nmi_panic|oops_end|oops_\w+|die\w*|__die\w*|__warn\w*|warn_slowpath\w*|report_bug
    |handle_bug|exc_\w+|asm_\w+|do_trap|do_error_trap|do_int3\w*|page_fault_oops|__bad_area\w*|bad_area\w*|no_context|do_user_addr_fault
    |do_kern_addr_fault|fixup_\w+|print_\w+|__?kasan_\w*|kasan_\w*|__asan_\w+|__hwasan_\w+|check_memory_region|__kmsan_\w+|kmsan_\w+
    |kfence_\w+|__kfence_\w+|kcsan_\w+|__tsan_\w+|__ubsan_\w+|ubsan_\w+|handle_overflow|val_to_string
    |__list_(?:add|del)\w*_(?:valid|or_report)\w*|__list_\w+_valid|list_(?:add|del|move)\w*|refcount_\w+|__refcount_\w+|usercopy_abort
    |__check_(?:object_size|heap_object)|check_heap_object|__might_(?:sleep|resched|fault)|___might_sleep|__schedule_bug|__schedule
    |schedule\w*|preempt_schedule\w*|io_schedule\w*|__switch_to\w*|context_switch|do_wait_for_common|wait_for_co\w+|__wait_for_co\w+
    |__mutex_lock\w*|mutex_lock\w*|down_(?:read|write|interruptible|killable)\w*|__down\w*|rwsem_\w+|rt_mutex_\w+|percpu_rwsem_wait
    |_raw_\w*(?:lock|trylock)\w*|do_raw_\w+|native_queued_\w+|queued_\w+|__pv_queued_\w+|pv_queued_\w+|lock_acquire|lock_release
    |__lock_\w+|check_(?:noncircular|prev\w+|deadlock|irq_usage|wait_context)|validate_chain|mark_lock\w*|mark_held_locks|lockdep_\w+
    |debug_(?:check_no_locks\w*|mutex_\w+|spin_\w+)|spin_(?:bug|dump|lock|unlock)\w*|rcu_\w*stall\w*|rcu_check_\w+|rcu_dump_\w+
    |rcu_pending|rcu_sched_clock_irq|check_cpu_stall|trigger_\w+backtrace\w*|nmi_\w+|arch_trigger_\w+|watchdog_\w+|lockup_\w+
    |update_process_times|tick_\w+|hrtimer_\w+|__hrtimer_\w+|__?run_hrtimer\w*|\w*sysvec_\w+|smp_call_\w+|csd_\w+|generic_exec_single
    |on_each_cpu\w*|native_safe_halt|default_idle\w*|irq_exit\w*|__irq_exit\w*|common_interrupt|common_startup_64
    |memset\w*|memcpy\w*|memmove\w*|__memset|__memcpy|__memmove|strlen|strcmp|strn?len\w*|__fortify_\w+|fortify_panic
    |bad_page|free_page_is_bad\w*|free_unref_\w+|scx_vexit|__scx_exit|scx_exit\w*|scx_(?:bpf_)?(?:v|ops_)?error\w*
    |sched_show_task|dump_(?:cpu_task|backtrace)|__sanitizer_\w+|smp_apic_timer_interrupt|show_regs|apic_timer_interrupt
    |ret_from_fork\w*|entry_\w+|do_syscall_\w+|x64_sys_call|kthread
    )$""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Frame:
    """One frame; `reliable` is false for what the unwinder printed with a question mark."""

    function: str
    offset: int | None = None
    size: int | None = None
    module: str | None = None
    reliable: bool = True


def base_name(function: str) -> str:
    """The function's name in the source: `do_exit.cold` is `do_exit`."""
    return _TAIL.sub("", function)


def parse_frame(text: str) -> Frame | None:
    """The frame that a console line (without its printk prefix) holds, or None."""
    match = _FRAME.match(text)
    return _frame(match) if match else None


def rip_function(text: str) -> Frame | None:
    """The frame of a `RIP: 0010:symbol+0x..` line of kernel mode; None for user mode and for a bare address."""
    match = _RIP.search(text)
    return _frame(match) if match else None


def guilty(frames: Iterable[Frame]) -> str | None:
    """The first reliable frame that neither reports, dispatches nor waits."""
    for frame in frames:
        name = base_name(frame.function)
        if frame.reliable and not _MACHINERY.match(name):
            return name
    return None


def _frame(match: re.Match[str]) -> Frame:
    found = match.groupdict()
    return Frame(
        found["func"], int(found["offset"], 16), int(found["size"], 16), found["module"], not found.get("stale")
    )
