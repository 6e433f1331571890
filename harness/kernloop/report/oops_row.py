# SPDX-License-Identifier: Apache-2.0
"""The types of the oops table: what a row says of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from .blame import Blame
from .patterns import Pattern
from .sentences import sentence
from .severity import Severity

__all__ = ["WORDS", "Row"]

# The words by which a line is known to be worth a look: each sentence of the table holds one. Few, since every line of
# every console is searched for them.
WORDS = (
    "BUG:",
    "WARNING:",
    "INFO:",
    "UBSAN:",
    "Kernel panic - not syncing",
    "Unable to handle kernel",
    "general protection fault",
    "stack segment:",
    "PANIC: double fault",
    "double fault:",
    "divide error:",
    "divide_error:",
    "invalid opcode:",
    "int3:",
    "Oops:",
    "Internal error:",
    "Unhandled fault:",
    "Alignment trap:",
    "kernel BUG",
    "Kernel BUG",
    "BUG kmalloc-",
    " corruption",
    "usercopy: Kernel memory ",
    "refcount_t: ",
    "rust_kernel: panicked",
    "hard LOCKUP",
    "kthread starved for",
    "sched_ext: BPF ",
    "unregister_netdevice: ",
    "VFS: Close: ",
    "VFS: Busy inodes",
    "trusty: panic",
    "fatal error:",
    "SYZFAIL:",
    "SYZFATAL:",
    "panic:",
    "Booting the kernel",
    "BUG ",
)


@dataclass(frozen=True)
class Row:
    """`says` are the sentences that announce it, `title` may name their words and `{func}`, the guilty function.

    needs: sentences of its body, in their order. bare: the report is complete without a trace. damaged: this header is
    only seen alone when its report was lost. follows: within an open report it is a part of it. heralds: a second
    header behind it tells more. stamped: believed only from printk, since programs write such lines as well.
    """

    kind: str
    severity: Severity
    title: str
    says: tuple[str, ...]
    blame: Blame | None = None
    needs: tuple[str, ...] = ()
    refine: Callable[[str, str], str] | None = None
    bare: bool = False
    damaged: bool = False
    follows: bool = False
    heralds: bool = False
    stamped: bool = False

    @cached_property
    def header(self) -> str:
        """The word that all of its sentences hold."""
        return next(word for word in WORDS if all(word in text for text in self.says))

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        return tuple(map(sentence, self.says))

    @cached_property
    def body(self) -> tuple[Pattern, ...]:
        return tuple(map(sentence, self.needs))
