# SPDX-License-Identifier: Apache-2.0
"""Names of kinds and the families that they belong to; what a memory checker's words make of its kind.

>>> kasan("slab-use-after-free", "Write"), family("kasan-use-after-free-write")
('kasan-use-after-free-write', 'kasan')
"""

from __future__ import annotations

__all__ = ["family", "kasan", "kcsan", "kfence", "kmsan", "ubsan"]

_FAMILIES = {
    "bad-access": "null-pointer-dereference paging-request corrupted-list",
    "bug": "kernel-bug bad-usercopy",
    "warning": "refcount refcount-warning",
    "lockdep": "deadlock inconsistent-lock-state bad-unlock-balance held-lock-freed locks-held spinlock rwlock "
    "preemptible suspicious-rcu nested-lock locking-bug non-static-key",
    "atomic-sleep": "sleeping-function scheduling-while-atomic",
    "leak": "memory-leak",
    "hang": "hung-task rcu-stall soft-lockup hard-lockup workqueue-lockup",
    "dos": "general-protection-fault divide-error invalid-opcode int3 stack-segment-fault double-fault kernel-panic "
    "internal-error unhandled-fault alignment-trap stack-overflow stack-guard-page double-free go-runtime-error "
    "user-panic trusty rust-panic vfs netdev-refcount kernel-exit oom",
    "reboot": "unexpected-reboot",
    "sched-ext": "sched-ext",
    "syz-failure": "syz-failure",
}
_FAMILY = {kind: family for family, kinds in _FAMILIES.items() for kind in kinds.split()}
_CHECKERS = ("kasan", "kfence", "kmsan", "kcsan", "ubsan")
_BOUNDS = ("global", "stack", "slab", "vmalloc", "out-of-bounds", "user-memory", "wild-memory", "invalid-access")


def family(kind: str) -> str:
    """The family of a kind; a kind that stands alone is its own family."""
    return _FAMILY.get(kind) or next((name for name in _CHECKERS if kind.startswith(name)), kind)


def kasan(what: str, access: str) -> str:
    """Where the report does not say what the access was, it was at least a read."""
    side = "write" if access.lower() == "write" else "read"
    if "free" in what and "use-after-free" not in what:
        return "kasan-invalid-free"
    if "use-after-free" in what:
        return f"kasan-use-after-free-{side}"
    if what.startswith("null-ptr"):
        return f"kasan-null-pointer-dereference-{side}" if access else "kasan-unknown"
    if any(word in what for word in _BOUNDS) or (what == "unknown-crash" and side == "read" and access):
        return f"kasan-{side}"
    return "kasan-unknown"


def kfence(what: str, access: str) -> str:
    side = "write" if "write" in (what + access) else "read"
    if "use-after-free" in what:
        return f"kfence-use-after-free-{side}"
    if what.startswith("invalid free"):
        return "kfence-invalid-free"
    if "corruption" in what:
        return "kfence-memory-corruption"
    return f"kfence-{side}" if what.startswith(("out-of-bounds", "invalid")) else "kfence-unknown"


def kmsan(what: str, access: str) -> str:
    if "after-free" in what:
        return "kmsan-use-after-free-read"
    if "infoleak" in what:
        return "kmsan-info-leak"
    return "kmsan-uninit-value" if what == "uninit-value" else "kmsan-unknown"


def kcsan(what: str, access: str) -> str:
    if what.startswith("data-race"):
        return "kcsan-datarace"
    return "kcsan-assert" if what.startswith("assert: race") else "kcsan-unknown"


def ubsan(what: str, access: str) -> str:
    return "ubsan-array-index" if what.startswith("array-index-out-of-bounds") else "ubsan"
