# SPDX-License-Identifier: Apache-2.0
"""The oops table: by which sentences the kernel announces that something is wrong, most specific first.

The sentences are the kernel's printk formats (see sentences.py for their holes), by the part of the kernel that writes
them. A new crash is one row here and one recorded log in the tests. A kind is a stable word of the public output.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from . import kinds
from .blame import FAULT, STACK, TRACE, Blame, calls, hung, overflown, program_counter, says, stalled
from .oops_row import Row
from .severity import Severity

__all__ = ["ROWS"]


def _of(severity: Severity, kind: str, title: str, *sentences: str, blame: Blame | None = None, **more: object) -> Row:
    return replace(Row(kind, severity, title, sentences, blame), **more)  # type: ignore[arg-type]


_oops, _warn = partial(_of, Severity.OOPS), partial(_of, Severity.WARNING)
_hang, _panic = partial(_of, Severity.HANG), partial(_of, Severity.PANIC)


def _passing(extra: str) -> Blame:
    """The stack, and what this family's checks are made of is no culprit."""
    return replace(STACK, extra=extra)


def _below(text: str, extra: str = "") -> Blame:
    """The trace that a sentence stands above."""
    return Blame((says(text), TRACE), extra)


_lock_at = says("at: {..}{func}")
_held_at = says("] {func}")

# mm/kasan/report.c print_error_description(), report_tags.c, report_generic.c; the access is told a line below.
_KASAN = (
    _oops(
        "kasan-unknown",
        "KASAN: {what} {access} in {func}",
        "BUG: KASAN: {what:[a-z-]+} in {where}",
        needs=("{access} {of size|at addr} {x}",),
        # The frames of a tag fault (hardware tags, arm64) are above the access.
        blame=Blame(
            (says("BUG: KASAN: {..} in {func}"), calls, TRACE), "*kernel_fault* *tag_check* *mem_abort* !el1_* !el1h_*"
        ),
        refine=kinds.kasan,
    ),
    _oops(
        "kasan-invalid-free",
        "KASAN: invalid-free in {func}",
        "BUG: KASAN: {double-free or invalid-free|double-free|invalid-free} in {[A-Za-z_]}",
        blame=Blame((says("BUG: KASAN: {..} in {func}"), calls, TRACE), "*slab_* *kfree* *vunmap* *vfree*"),
    ),
    _oops(
        "kasan-unknown",
        "KASAN: {what} {access}",
        "BUG: KASAN: {what:[a-z-]+} on address",
        needs=("{access} of size {n}",),
        refine=kinds.kasan,
    ),
    _oops(
        "kasan-unknown",
        "KASAN: {what} in {func}",
        "BUG: KASAN: {what:[a-z-]+} in {func}",
        "BUG: KASAN: {what}",
        refine=kinds.kasan,
        damaged=True,
    ),
)

_URB = "usb_start_wait_urb usb_bulk_msg usb_interrupt_msg usb_control_msg* usb_submit_urb*"
# Ciphers and checksums touch every byte: the bug is with who handed them the buffer. crypto/, lib/crypto, net/netlink.
_CIPHERS = "*alloc_skb* *_encrypt !crypto_* !cipher_* !drbg_* !rng_* *netlink_ack* *netlink_rcv_skb*"


# A use, and below it where the memory comes from: without that the report was cut.
def _uninitialised(extra: str) -> Blame:
    origin = says("{(?:^Local variable .*|Uninit was)} created at:")
    return Blame((says("BUG: KMSAN:"), TRACE, origin, TRACE), extra)


# mm/kmsan/report.c, kernel/kcsan/report.c, mm/kfence/report.c, lib/ubsan.c.
_OTHER_CHECKERS = (
    _oops(
        "kmsan-unknown",
        "KMSAN: {what} in {func}",
        "BUG: KMSAN: {what:kernel-usb-infoleak} in {[A-Za-z_]}",
        blame=_uninitialised(f"*alloc_skb* {_URB}"),
        refine=kinds.kmsan,
        bare=True,
    ),
    _oops(
        "kmsan-unknown",
        "KMSAN: {what} in {func}",
        "BUG: KMSAN: {what:[a-z-]+} in {[A-Za-z_]}",
        blame=_uninitialised(_CIPHERS),
        refine=kinds.kmsan,
        bare=True,
    ),
    _warn(
        "kcsan-unknown",
        "KCSAN: {what}",
        "BUG: KCSAN: {what:(?:data-race|assert: race) in (?P<func>[A-Za-z_$][\\w$]*).*\\S}",
        "BUG: KCSAN: {what}",
        refine=kinds.kcsan,
        bare=True,
    ),
    _oops(
        "kfence-unknown",
        "KFENCE: {what} in {func}",
        "BUG: KFENCE: {what:(?:use-after-free|out-of-bounds|invalid) (?:read|write)} in {[A-Za-z_]}",
        blame=_below("BUG: KFENCE: {..} in {func}"),
        refine=kinds.kfence,
    ),
    _oops(
        "kfence-unknown",
        "KFENCE: {what} in {func}",
        "BUG: KFENCE: {what:invalid free|memory corruption} in {[A-Za-z_]}",
        blame=_below("BUG: KFENCE: {..} in {func}"),
        refine=kinds.kfence,
        bare=True,
    ),
    _oops("kfence-unknown", "KFENCE: {what}", "BUG: KFENCE: {what}", damaged=True),
    # "Undefined behaviour" was the whole title until 5.6; since then the handler's word stands there.
    _warn(
        "ubsan",
        "UBSAN: undefined-behaviour in {func}",
        "UBSAN: Undefined behaviour in {src}",
        blame=_passing("*ubsan* *overflow*"),
    ),
    _warn(
        "ubsan",
        "UBSAN: {what} in {func}",
        "UBSAN: {what} in ",
        blame=_passing("*ubsan* *overflow*"),
        refine=kinds.ubsan,
    ),
    _warn("ubsan", "UBSAN: {what}", "UBSAN: {what}", damaged=True),
)

# kernel/watchdog*.c, kernel/rcu/tree_{stall.h,exp.h}, kernel/hung_task.c, kernel/workqueue.c.
_LATE = "*apic_timer_interrupt*"
_below_tick = says("{apic_timer_interrupt|Exception stack|el1h_64_irq}")
_HANGS = (
    _hang(
        "hard-lockup",
        "hard lockup in {func}",
        "{[Ww]}atchdog: CPU{cpu}: Watchdog detected hard LOCKUP",
        "{[Ww]}atchdog: {..}hard LOCKUP",
        "{[Ww]}atchdog detected hard LOCKUP on cpu {cpu}",
        "hard LOCKUP on cpu {cpu}",
        blame=FAULT,
    ),
    _hang(
        "soft-lockup",
        "BUG: soft lockup in {func}",
        "BUG: soft lockup - CPU#{cpu} stuck for {n}s! [{comm}:{pid}]",
        "BUG: soft lockup - CPU#{cpu}",
        "BUG: soft lockup",
        blame=replace(FAULT, pick=stalled),
    ),
    # The stalled code is below the timer interrupt that found it out; what is above belongs to the stall detector.
    _hang(
        "rcu-stall",
        "INFO: rcu detected stall in {func}",
        "INFO: rcu_{preempt|sched|bh|tasks\\w*} {self-detected|detected}{(?: expedited)?} stall",
        blame=Blame(
            (says("apic_timer_interrupt"), program_counter, TRACE),
            f"{_LATE} *rcu*",
            stalled,
            (_below_tick, TRACE),
            (program_counter, calls, TRACE),
        ),
    ),
    _hang(
        "rcu-stall",
        "INFO: rcu detected stall in {func}",
        "rcu{..}kthread starved for {n} jiffies",
        blame=replace(STACK, pick=stalled),
        follows=True,
    ),
    _hang(
        "hung-task",
        "INFO: task hung in {func}",
        "INFO: task {comm}:{pid} blocked {(?:in I/O wait )?}for more than {n} seconds",
        blame=replace(STACK, pick=hung),
    ),
    _hang(
        "hung-task",
        "INFO: task can't die in {func}",
        "INFO: task {comm}:{pid} can't die for more than {..} seconds",
        blame=_passing("*schedule*"),
    ),
    # The hung task's report goes on: who has the lock (6.16 and later).
    _hang(
        "hung-task",
        "INFO: task hung in {func}",
        "INFO: task {..}:{n} {(?:is |<\\w+> )?}blocked on {an?} ",
        blame=replace(STACK, pick=hung),
        follows=True,
    ),
    _hang("workqueue-lockup", "BUG: workqueue lockup", "BUG: workqueue lockup", bare=True),
)

# kernel/sched/core.c, lib/smp_processor_id.c, kernel/workqueue.c.
_ATOMICITY = (
    _oops(
        "scheduling-while-atomic",
        "BUG: scheduling while atomic in {func}",
        "BUG: scheduling while atomic: {comm}/{pid}/0x",
        "BUG: scheduling while atomic",
        blame=_passing("*schedule*"),
    ),
    _warn(
        "sleeping-function",
        "BUG: sleeping function called from invalid context in {func}",
        "BUG: sleeping function called from {invalid|illegal} context",
        blame=STACK,
    ),
    _warn(
        "preemptible",
        "BUG: using {what}() in preemptible code in {func}",
        "BUG: using {what:[a-z_]+}() in preemptible",
        blame=_passing("*preempt* *debug_* *processor_id* *this_cpu*"),
    ),
    _warn(
        "workqueue-leak",
        "BUG: workqueue leaked lock or atomic in {func}",
        "BUG: workqueue leaked {lock|atomic}",
        needs=("last function: {func:\\w+}",),
        bare=True,
    ),
)


# The word in front changed with the years: INFO or BUG until 4.10, WARNING since.
def _lockdep(kind: str, title: str, text: str, **more: object) -> tuple[Row, ...]:
    words = ("WARNING", "INFO", "BUG")
    return tuple(_of(Severity.WARNING, kind, title.replace("WORD", word), f"{word}: {text}", **more) for word in words)  # type: ignore[arg-type]


# kernel/locking/lockdep.c.
_LOCKDEP = (
    *_lockdep(
        "deadlock",
        "possible deadlock in {func}",
        "possible circular locking dependency detected",
        needs=("is trying to acquire lock",),
        blame=Blame(
            (_lock_at, _lock_at, TRACE), "*process_one_work* *flush_workqueue* drain_workqueue destroy_workqueue"
        ),
    ),
    *_lockdep(
        "deadlock",
        "possible deadlock in {func}",
        "possible irq lock inversion dependency detected",
        needs=("just changed the state of lock", "at: {..}{func}"),
    ),
    *_lockdep(
        "deadlock",
        "possible deadlock in {func}",
        "{..}-safe -> {..}-unsafe lock order detected",
        blame=replace(_below("which became {..} at:"), instead=(says("is trying to acquire"), _lock_at)),  # of 4.10
    ),
    *_lockdep(
        "deadlock",
        "possible deadlock in {func}",
        "possible recursive locking detected",
        needs=("is trying to acquire lock", "at: {..}{func}"),
    ),
    *_lockdep(
        "inconsistent-lock-state",
        "inconsistent lock state in {func}",
        "inconsistent lock state",
        needs=("takes", "at: {..}{sym}"),
        blame=STACK,
    ),
    *_lockdep(
        "suspicious-rcu",
        "WORD: suspicious RCU usage in {func}",
        "suspicious RCU usage",
        needs=("{src}",),
        blame=_passing("*rcu* *kmem* *slab*"),
    ),
    *_lockdep(
        "bad-unlock-balance",
        "WORD: bad unlock balance in {func}",
        "bad unlock balance detected!",
        blame=Blame((_held_at, calls, TRACE)),
    ),
    *_lockdep("held-lock-freed", "WORD: held lock freed in {func}", "held lock freed!", needs=("at: {..}{func}",)),
    *_lockdep(
        "locks-held", "WORD: still has locks held in {func}", "{..}still has locks held!", needs=("at: {..}{func}",)
    ),
    *_lockdep(
        "locks-held",
        "WORD: lock held when returning to user space in {func}",
        "lock held when returning to user space",
        needs=("leaving the kernel with locks still held", "at: {..}{func}"),
        bare=True,
    ),
    *_lockdep(
        "locking-bug",
        "WARNING: locking bug in {func}",
        "Invalid wait context",
        blame=_passing("*lock_sock* *release_sock*"),
    ),
    _warn(
        "non-static-key",
        "INFO: trying to register non-static key in {func}",
        "INFO: trying to register non-static key",
        blame=_passing("*stack* *lock* *IRQ*"),
    ),
    # kernel/locking/spinlock_debug.c.
    _oops(
        "spinlock",
        "BUG: {lock} {what} in {func}",
        *(
            f"BUG: {{lock:spinlock|rwlock}} {{what:lockup suspected|already unlocked|recursion|cpu recursion|bad magic"
            f"|wrong owner|wrong CPU|trylock failure on UP}}{cpu}"
            for cpu in (" on CPU#{cpu}", "")
        ),
        blame=_passing("*spin_* *_lock* *_unlock* !__lock* !__unlock*"),
    ),
)

_NULL, _PAGING = (
    f"BUG: unable to handle kernel {what} in {{func}}" for what in ("NULL pointer dereference", "paging request")
)
# arch/x86/mm/fault.c, arch/arm*/mm/fault.c, arch/powerpc/mm/fault.c, arch/riscv/mm/fault.c, arch/loongarch/mm/fault.c.
_FAULTS = (
    _oops(
        "paging-request",
        _PAGING,
        "BUG: unable to handle kernel paging request",
        "BUG: unable to handle page fault for address",
        "BUG: Unable to handle kernel data access",
        "BUG: Unable to handle kernel instruction fetch",
        blame=FAULT,
    ),
    _oops(
        "null-pointer-dereference",
        _NULL,
        "BUG: kernel NULL pointer dereference",
        "BUG: Kernel NULL pointer dereference",
        "BUG: unable to handle kernel NULL pointer dereference",
        blame=FAULT,
    ),
    _oops("bad-access", "BUG: unable to handle kernel", "BUG: {[Uu]}nable to handle kernel", damaged=True),
    _oops("null-pointer-dereference", _NULL, "Unable to handle kernel NULL pointer dereference", blame=FAULT),
    _oops("paging-request", _PAGING, "Unable to handle kernel paging request", blame=FAULT),
    _oops(
        "bad-access",
        "BUG: unable to handle kernel access to user memory in {func}",
        "Unable to handle kernel access to user memory",
        blame=FAULT,
    ),
    _oops("bad-access", "Unable to handle kernel {what}", "Unable to handle kernel {what}", bare=True),
    # arch/x86/kernel/dumpstack.c handle_stack_overflow(); the name of the stack stands there since 5.16.
    _oops(
        "stack-guard-page",
        "BUG: stack guard page was hit in {func}",
        "BUG: {..}stack guard page was hit",
        blame=replace(FAULT, pick=overflown),
    ),
)

# What handles pages for everybody: who had the page last is to blame. mm/{page_alloc,swap,gup,truncate,page_owner}.c.
_PAGES = (
    "*free_page* *put_page* *get_page* *update_page* *release_page* *free_unref* folio* truncate_inode_pages* "
    "page_frag_free *alloc* *vmap* *page_owner* prep_new_page"
)
_SLUB = (
    "*slab* object_err print_trailer check_* *_consistency* free_to_* free_debug* setup_object* get_from_* warn_free*"
)
_ALLOCATING = "*kmemleak* *mmap* *kmem* *slab* *alloc* *create_object* *idr_get* *list_lru_init* *pcpu_create*"
# mm/{page_alloc,memory,kmemleak,slub,usercopy}.c, kernel/fork.c, fs/dcache.c, lib/list_debug.c.
_MEMORY = (
    _oops(
        "bad-page",
        "BUG: Bad page {what} in {func}",
        "BUG: Bad page {what:state|cache} in process {comm}  pfn",
        "BUG: Bad page {what:state|cache}",
        blame=replace(_below("page last allocated", f"{_PAGES} bad_page *free_frozen*"), instead=(calls, TRACE)),
    ),
    _oops("bad-page", "BUG: Bad page map", "BUG: Bad page map"),
    _warn("rss-counter", "BUG: Bad rss-counter state", "BUG: Bad rss-counter", bare=True),
    _warn("bug", "BUG: {what}", "BUG: {what:non-zero nr_p\\w+ on freeing mm}", bare=True),
    _warn(
        "dentry-in-use",
        "BUG: Dentry still in use [unmount of {what}]",
        "BUG: Dentry {..} still in use ({n}) [unmount of {what:[^\\]\\s]+}",
    ),
    _warn(
        "memory-leak",
        "memory leak in {func}",
        "BUG: memory leak",
        blame=Blame((says("backtrace{(?: \\(crc [0-9a-f]*\\))?}:"), TRACE), _ALLOCATING),
    ),
    _oops(
        "bad-usercopy",
        "BUG: bad usercopy in {func}",
        "usercopy: Kernel memory {what:exposure|overwrite} attempt detected",
        blame=_passing("usercopy_* report_usercopy !__check*"),
        heralds=True,
    ),
    _oops(
        "corrupted-list",
        "BUG: corrupted list in {func}",
        "^list_{add|del} corruption",
        "^slab list_{add|del} corruption",
        blame=STACK,
        heralds=True,
    ),
    _oops(
        "bad-usercopy",
        "BUG: bad usercopy in {func}",
        "kernel BUG at {mm/usercopy\\.c|usercopy_abort}",
        blame=_passing("usercopy_* report_usercopy !__check*"),
    ),
    _oops(
        "corrupted-list",
        "BUG: corrupted list in {func}",
        "kernel BUG at {lib/list_debug\\.c|__list_\\w+_valid_or_report}",
        blame=STACK,
    ),
    _oops("double-free", "BUG: Object already free", "BUG kmalloc-{..}: Object already free"),
    # mm/slub.c slab_bug(). Whose object it was is nearer to the cause than whoever found it spoilt.
    _oops(
        "double-free",
        "BUG: Object already free in {func}",
        "^BUG {\\S+} ({Not tainted|Tainted}{..}): Object already free",
        blame=_passing(_SLUB),
    ),
    _oops(
        "slub",
        "BUG: {what} in {func}",
        "^BUG {\\S+} ({Not tainted|Tainted}{..}): {what:(?!kasan: ).*}",
        blame=Blame((says("Allocated in {func}"),), _SLUB, instead=(calls, TRACE)),
    ),
    _warn("slub", "INFO: {what} in {func}", "INFO: {what:Freed|Allocated} in {func}", damaged=True, bare=True),
)

_HERE = Blame((program_counter,))
# arch/x86/kernel/traps.c, arch/arm*/kernel/traps.c, arch/arm/mm/{fault,alignment}.c, lib/bug.c, rust/kernel/lib.rs.
_TRAPS = (
    # A program's fault is told in the same words, with its own name in front: "syz[3]: segfault", "error:0 in libc".
    _oops(
        "general-protection-fault",
        "general protection fault in {func}",
        "general protection fault{..}:{(?!.* error:\\d+ in )}",
        "^general protection fault",
        blame=FAULT,
    ),
    _oops("stack-segment-fault", "stack segment fault in {func}", "stack segment: ", blame=FAULT),
    _oops("double-fault", "PANIC: double fault in {func}", "PANIC: double fault", blame=_HERE, follows=True),
    _oops("double-fault", "double fault in {func}", "double fault: {..}[#{n}]", blame=FAULT, follows=True),
    _oops(
        "rust-panic",
        "{what} in {func}",
        "rust_kernel: panicked at ",
        needs=("rust_kernel: panicked at ", "^{what}"),
        blame=STACK,
    ),
    # Helpers of socket buffers assert what their caller promised.
    _oops(
        "kernel-bug",
        "kernel BUG in {func}",
        "kernel BUG at {what}",
        blame=replace(FAULT, extra="!skb_*"),
    ),
    _oops("kernel-bug", "kernel BUG {what}", "Kernel BUG {what}"),
    _oops("divide-error", "divide error in {func}", "divide error: ", blame=_HERE),
    _oops("divide-error", "divide error in {func}", "divide_error: ", blame=_HERE),  # the spelling of 5.8
    _oops("invalid-opcode", "invalid opcode in {func}", "invalid opcode: ", blame=_HERE, follows=True),
    _oops("int3", "int3 in {func}", "int3: ", blame=FAULT),
    _oops("unhandled-fault", "Unhandled fault in {func}", "Unhandled fault:", blame=FAULT),
    _oops("alignment-trap", "Alignment trap in {func}", "Alignment trap:", blame=FAULT),
    _oops("internal-error", "Internal error in {func}", "Internal error:", blame=FAULT, follows=True),
    _oops("internal-error", "Oops in {func}", "Oops: {[0-9a-f]{4,16}} [#{n}]", blame=FAULT, follows=True),
)


# A trap-based WARN shows where the trap hit; older kernels, and other architectures, only have the trace.
def _trap(line: str) -> str | None:
    found = program_counter(line)
    return says("--- interrupt: {x} at {func}")(line) if found is None else found


def _stands_at(extra: str = "") -> Blame:
    return Blame((_trap, TRACE), extra, instead=(calls, TRACE))


# Warnings of code that checks for its user: the file that warns says what it checks, the user is to blame.
def _checked(kind: str, what: str, sentences: str, extra: str) -> Row:
    return _warn(kind, f"WARNING: {what} in {{func}}", f"WARNING: {sentences}", blame=_stands_at(extra))


_ODEBUG = "*debug_* *rcu* *hrtimer_* *timer_* *work_* *percpu_* *vunmap* *vfree* !__free_* *kobject_*"
_ALLOCATORS = "*kmalloc* *krealloc* *slab* *kmem*"
_KOBJECT, _SOCK = "*kobject_*", "*lock_sock* *release_sock*"
_WARNINGS = (
    _checked("warning", "ODEBUG bug", "{..}lib/debugobjects.c:{n}", _ODEBUG),
    _checked("warning", "bad usercopy", "{..}mm/usercopy.c:{n}", "usercopy_* report_usercopy !__check*"),
    _checked("warning", "kobject bug", "{..}lib/kobject.c:{n}", _KOBJECT),
    _checked("warning", "proc registration bug", "{..}fs/proc/generic.c:{n}", "*proc_*"),
    _checked("refcount", "refcount bug", "{..}{lib/refcount\\.c:|at refcount_warn_saturate}", f"*refcount* {_KOBJECT}"),
    # include/linux/bug.h CHECK_DATA_CORRUPTION() without CONFIG_BUG_ON_DATA_CORRUPTION.
    _checked("corrupted-list", "corrupted list", "{..}{lib/list_debug\\.c:|at __list_\\w+_valid_or_report}", "*list_*"),
    _checked("locking-bug", "locking bug", "{..}kernel/locking/lockdep.c:{n} {(?:at )?\\w*lock_}", _SOCK),
    replace(
        _checked("slub", "slub bug", "{..}{mm/slub\\.c:|at (?:object_err|__slab_err|warn_free_bad_obj)\\+}", _SLUB),
        follows=True,
    ),
    _checked("nested-lock", "nested lock was not taken", "Nested lock was not taken", ""),
    _checked(
        "warning",
        "kmalloc bug",
        "{..}mm/{\\w+}.c:{n} {(?:at )?(?:kv?|v)z?malloc}",
        _ALLOCATORS,
    ),
    _checked("warning", "zero-size vmalloc", "{..}mm/vmalloc.c:{n} {(?:at )?}__vmalloc_node", ""),
    _warn(
        "warning", "WARNING in {func}/usb_submit_urb", "WARNING: {..} {where:usb_submit_urb}", blame=_stands_at(_URB)
    ),
    # kernel/panic.c __warn(): the form until 6.16, and since. Where no function is there that has a name (an address,
    # a function of two words) the trace has it; without CONFIG_DEBUG_BUGVERBOSE no file is named.
    _warn(
        "warning",
        "WARNING in {func}",
        "WARNING: CPU: {cpu} PID: {pid} at {src} {where}",
        "WARNING: {..}at {src} {where}",
        "WARNING: {(?:\\[.*\\] )?}{src} at {where}{..}, CPU#{cpu}: {comm:.+}/{pid}",
        "WARNING: {(?:\\[.*\\] )?}{src} at {where}",
        "WARNING: {(?:\\[.*\\] )?}{src} at 0x{x}",
        "WARNING: at {where}{..}, CPU#{cpu}: {comm:.+}/{pid}",
        "WARNING: CPU: {cpu} PID: {pid} at {where}",
        "WARNING: CPU: {cpu} PID: {pid} at {src}",
        "WARNING: at {src}",
        blame=_stands_at(),
    ),
    # arch/x86/kernel/unwind_frame.c.
    _warn(
        "unwinder",
        "WARNING: kernel stack regs has bad '{what}' value",
        "WARNING: kernel stack regs at {x} in {\\S*} has bad '{what:[^']+}' value",
        bare=True,
    ),
    _warn(
        "unwinder",
        "WARNING: kernel stack frame pointer has bad value",
        "WARNING: kernel stack frame pointer {..}has bad value",
        bare=True,
    ),
    _warn(
        "unwinder",
        "WARNING: kernel stack regs has bad value",
        "WARNING: kernel stack regs {..}has bad 'bp' value",
        bare=True,
    ),
    # lib/refcount.c, when the WARN above it is lost.
    _warn(
        "refcount",
        "WARNING: refcount bug in {func}",
        "^refcount_t: {what:[\\w\\-; ]+}{\\.?}$",
        blame=_stands_at(f"*refcount* {_KOBJECT}"),
        follows=True,
        heralds=True,
    ),
)

_SAYS = "Kernel panic - not syncing"
# The kernel is gone. Those with a cause of their own first: kernel/exit.c, init/{main,do_mounts}.c, mm/oom_kill.c,
# kernel/panic.c __stack_chk_fail(), kernel/sched/core.c schedule_debug(), arch/*/kernel/traps.c.
_PANICS = (
    _panic("kernel-exit", "kernel panic: Attempted to kill init!", f"{_SAYS}: Attempted to kill {{init|the idle}}"),
    _panic("vfs", "kernel panic: {what}", f"{_SAYS}: {{what:VFS: Unable to mount root fs}}"),
    _panic("vfs", "kernel panic: {what}", f"{_SAYS}: {{what:No working init found|Requested init .+ failed}}"),
    # Whoever asked for the memory.
    _panic(
        "oom",
        "kernel panic: {what}",
        f"{_SAYS}: {{what:Out of memory.*|System is deadlocked on memory}}",
        blame=_passing("*out_of_memory* *alloc_folio* *try_charge* *_charge"),
    ),
    _panic(
        "kernel-panic",
        "kernel panic: stack is corrupted in {func}",
        f"{_SAYS}: stack-protector: Kernel stack is corrupted in: {{func}}",
        bare=True,
    ),
    _panic(
        "kernel-panic",
        "kernel panic: stack is corrupted in {func}",
        f"{_SAYS}: stack-protector: Kernel stack is corrupted in: {{x}}",
        blame=_passing("*stack_chk*"),
    ),
    _panic(
        "kernel-panic",
        "kernel panic: corrupted stack end in {func}",
        f"{_SAYS}: corrupted stack end detected inside scheduler",
        blame=Blame((calls, TRACE), "*schedule* *retint_kernel*", stalled),
    ),
    _panic(
        "stack-overflow",
        "kernel stack overflow in {func}",
        f"{_SAYS}: kernel stack overflow",
        blame=Blame((calls, TRACE), "*bad_stack*", stalled),
    ),
    # What made it fatal has been printed before, and is not there.
    _panic(
        "kernel-panic",
        "kernel panic: {what}",
        f"{_SAYS}: {{what:Fatal exception|panic_on_warn set|hung_task: blocked tasks}}",
        damaged=True,
    ),
    _panic(
        "kernel-panic",
        "kernel panic: {what}",
        f"{_SAYS}: {{what:Couldn't open N_TTY ldisc}}",  # the rest of it are numbers
        f"{_SAYS}: {{what}}",
        _SAYS,
    ),
)

_SCHED_EXT = (
    # kernel/sched/ext/ext.c. An exit that was asked for is none of them.
    _of(
        Severity.EJECTED,
        "sched-ext",
        'sched_ext: "{what}" disabled ({reason})',
        '^sched_ext: BPF {(?:sub-)?}scheduler "{what:[^"]*}" disabled '
        "({reason:(?!unregistered |disabled by sysrq|parent exiting|killed by parent).+})",
    ),
)
_OTHERS = (
    # net/core/dev.c, fs/open.c, fs/super.c.
    _warn(
        "netdev-refcount",
        "unregister_netdevice: waiting for DEV to become free",
        "unregister_netdevice: waiting for {..} to become free",
        bare=True,
        follows=True,
    ),
    _warn(
        "vfs",
        "VFS: Close: file count is zero (use-after-free)",
        "VFS: Close: file count is {0|zero}",
        bare=True,
    ),
    _warn("vfs", "VFS: Busy inodes after unmount (use-after-free)", "VFS: Busy inodes after unmount", bare=True),
    # Android's second kernel, by way of drivers/trusty: its panics on the same console.
    _oops(
        "trusty",
        "trusty: ASSERT FAILED: {what}",
        "trusty: panic ({..}):{(?: DEBUG)?} ASSERT FAILED at ({..}): {what}",
        bare=True,
    ),
    _oops("trusty", "trusty: ASSERT FAILED: {what}", "trusty: panic{..} ASSERT FAILED{..}: {what:.*}", damaged=True),
    _oops("trusty", "trusty: panic: {what}", "trusty: panic ({..}): {what}", bare=True),
    # Programs that a fuzzer or a test runs: theirs, not the kernel's, but what the run has to show.
    _warn("go-runtime-error", "go runtime error", "^fatal error: ", bare=True),
    _warn("syz-failure", "SYZFAIL: {what}", "SYZFAIL:{ *}{what}", bare=True),
    _warn("syz-failure", "SYZFATAL: {what}", "SYZFATAL:{ *}{what}", bare=True),
    _warn("user-panic", "panic: {what}", "{(?<!\\w)}panic: {what}", bare=True),
    # Seen in the middle of a log only: see the engine.
    _warn("unexpected-reboot", "unexpected kernel reboot", "^Booting the kernel.", bare=True),
)


# Words of the kernel that no row above knows; the word alone is what is left of a line.
def _unknown(word: str, begins: str) -> tuple[Row, ...]:
    kind = word.lower()
    said = Row(kind, Severity.WARNING, f"{word}: {{what}}", (f"{begins}{word}: {{ *}}{{what:\\S.*}}",), bare=True)
    alone = Row(kind, Severity.WARNING, f"{word}: corrupted", (f"{begins}{word}:{{\\s*}}$",), damaged=True)
    return (said if word == "BUG" else replace(said, stamped=True), replace(alone, stamped=True))


_UNKNOWN = (*_unknown("BUG", "{(?:^|[\\s:\\[])}"), *_unknown("WARNING", "^"), *_unknown("INFO", "^"))

ROWS: tuple[Row, ...] = (
    *_KASAN,
    *_OTHER_CHECKERS,
    *_HANGS,
    *_ATOMICITY,
    *_LOCKDEP,
    *_FAULTS,
    *_MEMORY,
    *_TRAPS,
    *_WARNINGS,
    *_PANICS,
    *_SCHED_EXT,
    *_OTHERS,
    *_UNKNOWN,
)
