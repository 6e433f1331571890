# SPDX-License-Identifier: Apache-2.0
"""Functions that report, check, lock, copy or allocate for others: they stand in a trace above the one that erred.

A name is judged as the kernel builds names: leading underscores and the words for a lower layer (`arch_`, `native_`,
`raw_`) do not count, nor does what a wrapper adds behind (`_noprof`, `_irqsave`). What is left is looked up in lists
by part of the kernel. In a list `word` is a whole name, `word*` how names begin, `*word` how they end, `*word*` what
they hold, `.word` a word of the name between underscores, and `!word` the name as it is, nothing taken away: what is
below such a function (`__down` below `down`) has a name worth telling.

>>> [is_machinery(name) for name in ("dump_stack_lvl", "_raw_spin_lock_irqsave", "__kasan_check_read", "vfs_read")]
[True, True, True, False]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Names", "is_machinery", "plain"]

# What a layer below, or a variant, adds to a name; the longest first where one begins with another.
_LAYERS = (
    "arch_",
    "native_",
    "do_raw_",
    "raw_",
    "pv_",
    "queued_",
    "rcu_",
    "devm_",
    "rust_helper_",
    "cfi_",
    "pfx_",
    "pi_",
)
_VARIANTS = ("_noprof", "_irqsave", "_irqrestore", "_nested", "_lockdep", "_lvl", "_node_track_caller", "_bh", "_irq")


@dataclass(frozen=True)
class Names:
    """A list of names, in the notation above."""

    whole: frozenset[str]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    holds: tuple[str, ...]
    words: frozenset[str]
    exact: frozenset[str] = frozenset()
    exact_starts: tuple[str, ...] = ()

    @classmethod
    def of(cls, *lists: str) -> Names:
        listed = " ".join(lists).split()
        exact = [name[1:] for name in listed if name[0] == "!"]
        names = [name for name in listed if name[0] != "!"]
        return cls(
            frozenset(name for name in names if not name.startswith((".", "*")) and not name.endswith("*")),
            tuple(name[:-1] for name in names if name[0] != "*" and name[-1] == "*"),
            tuple(name[1:] for name in names if name[0] == "*" and name[-1] != "*"),
            tuple(name[1:-1] for name in names if name[0] == "*" and name[-1] == "*"),
            frozenset(name[1:] for name in names if name[0] == "."),
            frozenset(name for name in exact if name[-1] != "*"),
            tuple(name[:-1] for name in exact if name[-1] == "*"),
        )

    def has(self, name: str) -> bool:
        if name in self.whole or name.startswith(self.starts) or name.endswith(self.ends):
            return True
        if self.words and not self.words.isdisjoint(name.split("_")):
            return True
        return any(part in name for part in self.holds)


@lru_cache(maxsize=8192)
def plain(name: str) -> str:
    """A name without what layers and variants add: `_raw_spin_lock_irqsave` is `spin_lock`."""
    name = name.lstrip("_")
    while layer := next((layer for layer in _LAYERS if name.startswith(layer) and len(name) > len(layer)), ""):
        name = name[len(layer) :].lstrip("_")
    while variant := next((variant for variant in _VARIANTS if name.endswith(variant) and name != variant[1:]), ""):
        name = name[: -len(variant)]
    return name


# lib/dump_stack.c, kernel/panic.c, lib/bug.c, kernel/stacktrace.c, arch/*/kernel/{dumpstack,traps,stacktrace}.c,
# include/trace/perf.h; Rust's rust/helpers/bug.c and core::panicking.
_REPORT = """
    *dump_stack* dump_backtrace* *show_stack* show_regs* show_trace* *walk_stack* *stack_walk* stack_trace_save*
    stack_trace_consume* rust_begin_unwind sched_show_task schedule_bug panic panic_saved_regs panic_fmt
    panic_const* panic_bounds* panic_nounwind* *panic check_panic_on_warn die die_body die_addr die_header
    oops_begin oops_end oops_enter oops_exit warn !__warn* warn_slowpath* warn_alloc* warn_bogus* warn_printf
    *assertfail* report_bug* fixup_bug handle_bug print_usage_bug* print_circular_bug*
    print_deadlock_bug* *imbalance_bug print_unlock* *print_report* print_address_description* print_tainted* get_taint
    *perf_trace* fortify_report rust_helper_BUG
"""
# Entries of traps and faults: arch/x86/entry, arch/x86/mm/fault.c, arch/arm*/mm/fault.c, arch/arm64/kernel/entry*.c,
# arch/powerpc/kernel/exceptions-64*.S, arch/powerpc/mm/fault.c.
_ENTRY = """
    *invalid_op do_error_trap do_trap* *_trap page_fault_oops do_page_fault_oops bad_area* no_context die_kernel_fault
    do_kernel_fault do_bad_area do_mem_abort do_translation_fault el1_abort el1h_64_sync* program_check_*
    *indirect_thunk_*
"""
# Checkers that the compiler or a debug option puts in: mm/k*san, mm/kfence, kernel/kcsan, lib/debugobjects.c,
# kernel/locking/lockdep.c, lib/ref_tracker.c, include/linux/seqlock.h, mm/usercopy.c.
_CHECK = """
    .kasan .hwasan .kmsan .kcsan .kfence .asan .msan .tsan .sanitizer .ubsan .lockdep check_memory_region*
    check_heap_object *check_object* read_word_at_a_time read_once_*nocheck write_once_*nocheck seqprop_assert
    *ref_tracker_* *debug_object* debug_print_object *_is_static_object *might_fault *might_sleep* might_resched*
    *lock_class* *mark_lock* mark_held_locks reacquire_held_locks trace_hardirqs_* trace_softirqs_*
"""
# kernel/locking, kernel/sched/{wait,completion}.c, mm/filemap.c for the lock of a page, net/core/sock.c's is not here.
# A lock's name may stand in front (`mmap_read_lock`, `tty_ldisc_lock_class`) and what it was tried with behind.
_LOCK = """
    *spin_lock* *spin_trylock* *spin_unlock* *read_lock* *read_trylock* *read_unlock* *write_lock* *write_trylock*
    *write_unlock* *lock_acquire* *lock_release* *spin_rq_* *down_read* *down_write* *up_read* *up_write* !down
    down_trylock* !mutex_* !__mutex_* !rt_mutex_* !rt_spin_* rwsem_down_* *owner_on_cpu *osq_lock* *osq_unlock*
    local_bh_enable* local_bh_disable* *bh_enable *bh_disable !lock_page* !unlock_page* folio_unlock !__wake_up*
    *finish_wait !complete *wait_for_completion*
"""
# Memory for others: mm/{slub,slab_common,page_alloc,vmalloc,util,filemap,truncate}.c, net/core/skbuff.c. Each part of
# the kernel has an allocator of its own on top, by the same word: sock_kmalloc, bio_kmalloc, devm_kcalloc.
_MEMORY = """
    *alloc_page* *alloc_frozen_pages* *malloc* *zalloc* *calloc* *krealloc* *kvrealloc* free_large_kmalloc *kmem_cache*
    slab_* do_slab_* *_slab_alloc* *_slab_free* *_slab_post_* allocate_slab new_slab !kfree !kvfree *kfree_skb*
    *folio_alloc* !__filemap_get_folio* filemap_alloc_folio*
    find_or_create_page* do_read_cache_folio read_cache_page* do_read_cache_page pagecache_get_page
    grab_cache_page_write_begin find_lock_entries truncate_inode_pages_range mark_buffer_dirty* phys_addr*
    virt_addr_valid warn_free_bad_obj
"""
# Copies, strings, bits, counters, trees and lists: they stumble over what they were given. lib/, include/linux. The
# kernel names their relatives by the same word: hlist_add_head, nla_memcpy, ext4_mb_clear_bits, vfs_parse_fs_string.
_LEAF = """
    *memcpy* *memcmp* *memset* *memchr* *memmove* *memdup* *strcmp* *strncmp* *strcpy* *strlcpy* *strncpy* *strscpy*
    *strlen* *strnlen* *strstr* *strnstr* *strchr* *strdup* *strndup* *string* *pointer* *copy_to_user*
    *copy_from_user* *copy_to_iter* *copy_from_iter* copy_page_to_iter* copy_page_from_iter* *copy_folio_to_iter*
    *copy_folio_from_iter* !copyin !copyout copy_user_generic* copy_user_enhanced* *put_user* *get_user*
    extract_user_to_sg extract_iter_to_sg *set_bit* *clear_bit* *change_bit* *test_bit* *test_and_set_bit*
    *test_and_clear_bit* *test_and_change_bit* !refcount_* !kref_* !rb_* !__rb_* *list_add* *list_del*
    *list_replace* *list_move* *list_splice* !klist_* xas_start xas_load xas_find* rhashtable_lookup* *ida_free !crc16*
    !crc32* !crc64* *crc_itu_t *readb *readw *readl *readq *writeb *writew *writel *writeq logic_in* logic_out*
    hex_dump_to_buffer *print_hex_dump*
"""
# kernel/printk, lib/vsprintf.c, drivers/base/core.c's dev_printk.
_PRINT = """
    *printk* *snprintf* *scnprintf* !sprintf !vsprintf *kasprintf* *kvasprintf* va_format *dev_info* *dev_notice*
    *dev_warn* *dev_err* *dev_alert* *dev_crit* *dev_emerg* widen_string
"""
# Timers, work, kobjects, the driver core, USB's core: they find out, at the end, what their user did.
# kernel/time/timer.c, kernel/workqueue.c, lib/kobject*.c, drivers/{base,usb/core}, fs/sysfs, fs/{inode,dcache}.c.
_SERVICE = """
    *del_timer* !__timer_delete_sync lock_timer_base sk_stop_timer_sync !__mod_timer *flush_work* *cancel_work_sync
    !__cancel_work_timer !__flush_work try_to_grab_pending *flush_workqueue* drain_workqueue destroy_workqueue
    *queue_work* *insert_work* !__queue_delayed_work queue_delayed_work_on *kthread_stop* cleanup_srcu_struct
    *kobject_* add_uevent_var get_device_parent *device_add* *device_del* *device_unregister* *device_destroy*
    *device_release* *sysfs_remove* !put_device devres_release_all device_for_each_child* device_remove_file*
    hwrng_unregister i2c_del_adapter unregister_client tty_unregister_device rollback_registered*
    *unregister_netdev* dummy_urb_enqueue usb_kill_urb usb_kill_anchored_urbs usb_control_msg* usb_submit_urb
    usb_hcd_submit_urb !iput !iput_final !ihold drop_nlink *dput*
"""

_ATOMIC = " ".join(
    f"{word}_{does}*"
    for word in ("atomic", "atomic64", "atomic_long")
    for does in [
        "read",
        "set",
        "add",
        "sub",
        "inc",
        "dec",
        "and",
        "or",
        "xor",
        "andnot",
        "fetch",
        "xchg",
        "cmpxchg",
        "try_cmpxchg",
    ]
)

_ALWAYS = Names.of(_ATOMIC, _REPORT, _ENTRY, _CHECK, _LOCK, _MEMORY, _LEAF, _PRINT, _SERVICE)


@lru_cache(maxsize=64)
def _listed(names: str) -> Names:
    return Names.of(names)


@lru_cache(maxsize=8192)
def is_machinery(name: str, extra: str = "") -> bool:
    """Whether a function (without the compiler's tail) only stands above the one that erred; `extra` is a list of what
    a kind of report passes over besides."""
    return _in(_ALWAYS, name) or (bool(extra) and _in(_listed(extra), name))


# The name as it is has endings that its plain form lost (`_bh`), and the other way round.
def _in(names: Names, name: str) -> bool:
    if name in names.exact or name.startswith(names.exact_starts):
        return True
    return any(names.has(form) for form in _forms(name))


def _forms(name: str) -> Iterable[str]:
    yield plain(name)
    yield name.lstrip("_")
