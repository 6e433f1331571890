# SPDX-License-Identifier: Apache-2.0
"""How a kernel announces that something is wrong: one row a message, most specific first.

A row is a cheap substring, the ordered patterns that prove it, a kind, a severity and a title. Named groups say what
the header knows: `func`, `cpu`, `comm`, `pid`, `what`. A new crash is one row here and one recorded log in the tests.

Where the texts come from: arch/x86/mm/fault.c (page faults), arch/x86/kernel/traps.c and dumpstack.c (traps, Oops),
kernel/panic.c (panic, WARN), kernel/watchdog*.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, kernel/sched/core.c,
kernel/locking/lockdep.c, mm/kasan/report.c, mm/kfence/report.c, kernel/kcsan/report.c, lib/ubsan.c, lib/list_debug.c,
lib/refcount.c, mm/page_alloc.c, mm/oom_kill.c, init/do_mounts.c, kernel/workqueue.c, kernel/sched/ext/ext.c. A kind
is a stable word of the public output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .patterns import Pattern
from .severity import Severity

__all__ = ["CONSEQUENCE", "ROWS", "Row", "match_header", "may_hold_header"]


@dataclass(frozen=True)
class Row:
    """`title` may name the groups of the pattern and `{func}`, the guilty function."""

    header: str
    kind: str
    severity: Severity
    title: str
    patterns: tuple[Pattern, ...]


def _row(kind: str, severity: Severity, header: str, title: str, *patterns: str) -> Row:
    return Row(header, kind, severity, title, tuple(map(Pattern, patterns or (re.escape(header),))))


_P, _O, _E, _H, _W = Severity.PANIC, Severity.OOPS, Severity.EJECTED, Severity.HANG, Severity.WARNING
_FUNC = r"(?P<func>[\w.$]+)\+0x[0-9a-f]+"
_PANIC = "Kernel panic - not syncing"
_TRAP = r"(?::|\s).*\[#\d+\]"

ROWS: tuple[Row, ...] = (
    # Memory checkers.
    _row(
        "kasan",
        _O,
        "BUG: KASAN: ",
        "KASAN: {what} in {func}",
        rf"BUG: KASAN: (?P<what>[\w\- /]+?) in {_FUNC}",
        r"BUG: KASAN: (?P<what>[\w\- /]+?)(?: in |$)",
    ),
    _row(
        "kfence",
        _O,
        "BUG: KFENCE: ",
        "KFENCE: {what} in {func}",
        rf"BUG: KFENCE: (?P<what>[\w\- ]+?) in {_FUNC}",
        r"BUG: KFENCE: (?P<what>[\w\- ]+)",
    ),
    _row(
        "kmsan",
        _O,
        "BUG: KMSAN: ",
        "KMSAN: {what} in {func}",
        rf"BUG: KMSAN: (?P<what>[\w\- ]+?) in {_FUNC}",
        r"BUG: KMSAN: (?P<what>[\w\- ]+)",
    ),
    _row(
        "kcsan",
        _W,
        "BUG: KCSAN: ",
        "KCSAN: {what} in {func}",
        r"BUG: KCSAN: (?P<what>[\w\-: ]+?) in (?P<func>[\w.$]+)",
        r"BUG: KCSAN: (?P<what>[\w\- ]+)",
    ),
    _row(
        "ubsan", _W, "UBSAN: ", "UBSAN: {what} in {func}", r"^UBSAN: (?P<what>[\w\- ]+?) in ", r"^UBSAN: (?P<what>.+)"
    ),
    # Faults and traps.
    _row(
        "null-pointer-dereference",
        _O,
        "kernel NULL pointer dereference",
        "BUG: kernel NULL pointer dereference in {func}",
        r"^BUG: (?:unable to handle )?kernel NULL pointer dereference",
    ),
    _row(
        "paging-request",
        _O,
        "BUG: unable to handle ",
        "BUG: unable to handle page fault in {func}",
        r"^BUG: unable to handle (?:page fault for|kernel paging request at)",
    ),
    _row(
        "stack-guard-page",
        _O,
        "stack guard page was hit",
        "BUG: stack guard page was hit in {func}",
        r"^BUG: (?:\w+ )?stack guard page was hit",
    ),
    _row(
        "general-protection-fault",
        _O,
        "general protection fault",
        "general protection fault in {func}",
        r"^(?:Oops: )?general protection fault(?:, |:)",
    ),
    _row("int3", _O, "int3:", "int3 in {func}", rf"^(?:Oops: )?int3{_TRAP}"),
    _row("divide-error", _O, "divide error:", "divide error in {func}", rf"^(?:Oops: )?divide error{_TRAP}"),
    _row(
        "double-fault",
        _O,
        "double fault",
        "double fault in {func}",
        r"^(?:traps: )?(?:PANIC: |Oops: )?double fault[:,]",
    ),
    _row(
        "stack-segment-fault",
        _O,
        "stack segment:",
        "stack segment fault in {func}",
        rf"^(?:Oops: )?stack segment{_TRAP}",
    ),
    _row("corrupted-list", _O, "list_", "list corruption in {func}", r"^(?:slab )?list_(?:add|del) corruption"),
    _row(
        "bad-usercopy",
        _O,
        "usercopy: Kernel memory ",
        "usercopy: Kernel memory {what} in {func}",
        r"usercopy: Kernel memory (?P<what>exposure|overwrite) attempt detected",
    ),
    _row("kernel-bug", _O, "kernel BUG at ", "kernel BUG in {func}", r"^kernel BUG at (?P<what>\S+:\d+)!"),
    _row("invalid-opcode", _O, "invalid opcode:", "invalid opcode in {func}", rf"^(?:Oops: )?invalid opcode{_TRAP}"),
    _row(
        "bad-page",
        _O,
        "BUG: Bad ",
        "BUG: Bad {what}",
        r"^BUG: Bad (?P<what>page state|page map|rss-counter state|page cache)",
    ),
    # Hangs.
    _row(
        "hard-lockup",
        _H,
        "hard LOCKUP",
        "hard lockup in {func}",
        r"[Ww]atchdog(?: detected|: CPU(?P<cpu>\d+):.*|: ).*hard LOCKUP",
        r"hard LOCKUP on cpu ?(?P<cpu>\d+)",
    ),
    _row(
        "soft-lockup",
        _H,
        "soft lockup",
        "soft lockup in {func}",
        r"BUG: soft lockup - CPU#(?P<cpu>\d+) stuck for \d+s! \[(?P<comm>.+):(?P<pid>\d+)\]",
        r"BUG: soft lockup - CPU#(?P<cpu>\d+) stuck",
    ),
    _row(
        "rcu-stall",
        _H,
        "rcu",
        "rcu stall in {func}",
        r"\brcu.*(?:self-detected stall|detected stalls?|detected expedited stalls?)",
        r"\brcu.*kthread (?:timer wakeup didn't happen|starved) for \d+ jiffies",
    ),
    _row(
        "hung-task",
        _H,
        "for more than",
        "task hung in {func}",
        r"INFO: task (?P<comm>.+):(?P<pid>\d+) blocked (?:in I/O wait )?for more than",
    ),
    _row("workqueue-lockup", _H, "BUG: workqueue lockup", "workqueue lockup"),
    # Locking and atomicity.
    _row(
        "scheduling-while-atomic",
        _O,
        "BUG: scheduling while atomic",
        "scheduling while atomic in {func}",
        r"BUG: scheduling while atomic: (?P<comm>.+)/(?P<pid>\d+)/0x",
        "BUG: scheduling while atomic",
    ),
    _row(
        "sleeping-function",
        _W,
        "BUG: sleeping function called",
        "sleeping function called from {func}",
        "BUG: sleeping function called from (?:invalid|illegal) context",
    ),
    _row("deadlock", _W, "possible circular locking", "possible deadlock in {func}"),
    _row("deadlock", _W, "possible recursive locking", "possible deadlock in {func}"),
    _row("deadlock", _W, "lock inversion dependency detected", "possible deadlock in {func}"),
    _row("deadlock", _W, "-unsafe lock order detected", "possible deadlock in {func}"),
    _row("inconsistent-lock-state", _W, "inconsistent lock state", "inconsistent lock state in {func}"),
    _row("bad-unlock-balance", _W, "bad unlock balance detected", "bad unlock balance in {func}"),
    _row("held-lock-freed", _W, "held lock freed!", "held lock freed in {func}"),
    _row(
        "nested-lock", _W, "Invalid wait context", "invalid wait context in {func}", r"\[ BUG: Invalid wait context \]"
    ),
    _row("suspicious-rcu", _W, "suspicious RCU usage", "suspicious RCU usage in {func}"),
    _row(
        "spinlock",
        _O,
        "BUG: spinlock ",
        "BUG: spinlock {what} in {func}",
        r"^BUG: spinlock (?P<what>[\w ]+) on CPU#(?P<cpu>\d+)",
    ),
    # Panics: the kernel is gone. Those with a cause of their own first.
    _row(
        "kernel-exit",
        _P,
        _PANIC,
        "kernel panic: Attempted to kill init!",
        rf"{_PANIC}: Attempted to kill (?:init|the idle)",
    ),
    _row("vfs", _P, _PANIC, "kernel panic: {what}", rf"{_PANIC}: (?P<what>VFS: Unable to mount root fs)"),
    _row(
        "vfs",
        _P,
        _PANIC,
        "kernel panic: {what}",
        rf"{_PANIC}: (?P<what>No working init found|Requested init .+ failed)",
    ),
    _row(
        "oom",
        _P,
        _PANIC,
        "kernel panic: {what}",
        rf"{_PANIC}: (?P<what>Out of memory.*|System is deadlocked on memory)",
    ),
    _row(
        "stack-overflow",
        _P,
        _PANIC,
        "kernel stack corrupted in {func}",
        rf"{_PANIC}: .*stack is corrupted in: {_FUNC}",
        rf"{_PANIC}: (?:.*stack is corrupted in|kernel stack overflow)",
    ),
    _row("kernel-panic", _P, _PANIC, "kernel panic: {what}", rf"{_PANIC}: (?P<what>.*\S)", _PANIC),
    # Warnings and what is left.
    _row("refcount", _W, "refcount_t: ", "refcount: {what} in {func}", r"^refcount_t: (?P<what>[\w\-; ]+)\.?$"),
    _row(
        "warning",
        _W,
        "WARNING: ",
        "WARNING in {func}",
        rf"^WARNING: CPU: (?P<cpu>\d+) PID: (?P<pid>\d+) at (?P<what>\S+) {_FUNC}",
        rf"^WARNING: (?P<what>\S+:\d+) at {_FUNC}.*, CPU#(?P<cpu>\d+): (?P<comm>.+)/(?P<pid>\d+)",
        # Without CONFIG_DEBUG_BUGVERBOSE no file is named.
        rf"^WARNING: at {_FUNC}.*, CPU#(?P<cpu>\d+): (?P<comm>.+)/(?P<pid>\d+)",
        rf"^WARNING: CPU: (?P<cpu>\d+) PID: (?P<pid>\d+) at {_FUNC}",
        r"^WARNING: CPU: (?P<cpu>\d+) PID: (?P<pid>\d+)",
        r"^WARNING: (?P<what>\S+:\d+) at ",
    ),
    _row(
        "sched-ext",
        _E,
        "sched_ext: BPF ",
        'sched_ext: "{what}" disabled ({reason})',
        r'^sched_ext: BPF (?:sub-)?scheduler "(?P<what>[^"]*)" disabled '
        r"\((?P<reason>(?!unregistered |disabled by sysrq|parent exiting|killed by parent).+)\)",
    ),
    _row("internal-error", _O, "Oops:", "Oops in {func}", r"^(?:Oops: )?Oops: [0-9a-f]{4,16} \[#\d+\]"),
)

_ANY_HEADER = re.compile("|".join(sorted({re.escape(row.header) for row in ROWS})))

# A panic that only says that an earlier report was made fatal.
CONSEQUENCE = Pattern(
    rf"{_PANIC}: (?:Fatal (?:hardware )?exception|.*panic_on_warn set|softlockup: hung tasks|hung_task: blocked tasks|"
    r"Hard LOCKUP|RCU Stall|kernel: |stack guard page|scheduling while atomic|workqueue: )"
)


def may_hold_header(text: str) -> bool:
    """Whether a line is worth a closer look: a cheap test that most lines fail."""
    return _ANY_HEADER.search(text) is not None


def match_header(text: str) -> tuple[Row, re.Match[str]] | None:
    """The first row that a console line proves, or None."""
    if not may_hold_header(text):
        return None
    for row in ROWS:
        if row.header in text:
            for pattern in row.patterns:
                if match := pattern.search(text):
                    return row, match
    return None
