# SPDX-License-Identifier: Apache-2.0
"""Functions that report, check, lock, copy or allocate for others: they stand in a trace above the one that erred.

A name is judged as the kernel builds names: leading underscores and the words for a lower layer (`arch_`, `native_`,
`raw_`) do not count, nor does what a wrapper adds behind (`_noprof`, `_irqsave`). What is left is looked up in lists
by part of the kernel. In a list `word` is a whole name, `word*` how names begin, `*word` how they end, `*word*` what
they hold, and `.word` a word of the name between underscores.

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

    @classmethod
    def of(cls, *lists: str) -> Names:
        names = " ".join(lists).split()
        return cls(
            frozenset(name for name in names if not name.startswith((".", "*")) and not name.endswith("*")),
            tuple(name[:-1] for name in names if name[0] != "*" and name[-1] == "*"),
            tuple(name[1:] for name in names if name[0] == "*" and name[-1] != "*"),
            tuple(name[1:-1] for name in names if name[0] == "*" and name[-1] == "*"),
            frozenset(name[1:] for name in names if name[0] == "."),
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
    dump_stack* dump_backtrace* show_stack* show_regs* show_trace* walk_stack* stack_walk* stack_trace_*
    rust_begin_unwind sched_show_task schedule panic panic_saved_regs panic_fmt panic_const* panic_bounds*
    panic_nounwind* *panic
    check_panic_on_warn die die_* oops_* warn warn_slowpath*
    warn_alloc* warn_bogus* warn_printf .assertfail report_bug* *_bug print_report* print_address_description*
    print_tainted* get_taint perf_trace_* trace_event_* fortify_report rust_panic rust_helper_BUG
"""
# Entries of traps and faults: arch/x86/entry, arch/x86/mm/fault.c, arch/arm*/mm/fault.c, arch/arm64/kernel/entry*.c,
# arch/powerpc/kernel/exceptions-64*.S, arch/powerpc/mm/fault.c.
_ENTRY = """
    asm_exc_* exc_* idtentry_* invalid_op do_invalid_op handle_invalid_op do_error_trap do_trap* *_trap page_fault
    page_fault_oops do_page_fault_oops bad_area* no_context die_kernel_fault do_kernel_fault do_bad_area do_mem_abort
    do_translation_fault el1_abort el1h_64_sync* program_check_* x86_indirect_thunk_* *indirect_thunk_array
"""
# Checkers that the compiler or a debug option puts in: mm/k*san, mm/kfence, kernel/kcsan, lib/debugobjects.c,
# kernel/locking/lockdep.c, lib/ref_tracker.c, include/linux/seqlock.h, mm/usercopy.c.
_CHECK = """
    .kasan .hwasan .kmsan .kcsan .kfence .asan .msan .tsan .sanitizer .ubsan .lockdep check_memory_region*
    check_heap_object check_object* read_word_at_a_time read_once_* write_once_* seqprop_assert ref_tracker_*
    debug_object* debug_print_object *_is_static_object might_fault might_sleep* might_resched* lock_class*
    *_lock_class mark_lock* mark_held_locks reacquire_held_locks trace_hardirqs_* trace_softirqs_*
"""
# kernel/locking, kernel/sched/{wait,completion}.c, mm/filemap.c for the lock of a page, net/core/sock.c's is not here.
_LOCK = """
    *_read_lock *_read_unlock *_write_lock *_write_unlock *_lock_acquire *_lock_release *_lock_held* *_lock_any_held
    *_lock_sched_held *_lock_bh_held *spin_lock_slowpath *_down_read *_down_write *_up_read *_up_write *_rwsem_down_*
    lock_acquire* lock_release* spin_rq_* spin_lock* spin_trylock* spin_unlock* read_lock* read_trylock* read_unlock*
    write_lock* write_trylock* write_unlock* down down_read* down_write* down_trylock* up_read* up_write* mutex_*
    rt_mutex_* rt_spin_* rwsem_* *_owner_on_cpu owner_on_cpu osq_lock* osq_unlock* local_bh_enable* local_bh_disable*
    lock_page* unlock_page* folio_lock folio_lock_killable folio_lock_or_retry folio_unlock wake_up wake_up_common*
    wake_up_locked* wake_up_sync* finish_wait complete wait_for_completion*
"""
# Memory for others: mm/{slub,slab_common,page_alloc,vmalloc,util,filemap,truncate}.c, net/core/skbuff.c.
_MEMORY = """
    alloc_page* alloc_frozen_pages* *_alloc_pages* *_alloc_page alloc_slab_page kmalloc* kzalloc* kcalloc* kvmalloc*
    kvzalloc* vmalloc* vzalloc* vcalloc* do_kmalloc* kvmemdup* krealloc* kvrealloc* mempool_kmalloc *_zalloc
    free_large_kmalloc kmem_cache_* slab_* allocate_slab new_slab kfree kvfree vfree *kfree_skb* folio_alloc*
    filemap_alloc_folio* filemap_get_folio find_or_create_page* do_read_cache_folio read_cache_page*
    do_read_cache_page pagecache_get_page grab_cache_page_write_begin find_lock_entries truncate_inode_pages_range
    mark_buffer_dirty* phys_addr* virt_addr_valid warn_free_bad_obj
"""
# Copies, strings, bits, counters, trees and lists: they stumble over what they were given. lib/, include/linux.
_LEAF = """
    memcpy* memcmp* memset* memchr* memmove* *memdup* memdup* strcmp* strncmp* strcpy* strlcpy* strncpy* strscpy*
    sized_strscpy nla_memcpy nla_strscpy strlen* strnlen* strstr* strnstr* strchr* strdup* kstrdup* kstrndup* strndup*
    *copy_to_user* *copy_from_user* *copy_to_iter* *copy_from_iter* copy_page_to_iter* copy_page_from_iter*
    copy_folio_to_iter* copy_folio_from_iter* copyin copyout copy_user_* put_user* get_user* *_get_user
    get_user_pages* extract_user_to_sg extract_iter_to_sg set_bit* clear_bit* change_bit* test_bit* test_and_set_bit*
    test_and_clear_bit* test_and_change_bit* refcount_* kref_* rb_* list_add* list_del* list_replace* list_move*
    list_splice* klist_* xas_start xas_load xas_find* rhashtable_lookup* ida_free crc16* crc32* crc_itu_t readb readw
    readl readq writeb writew writel writeq logic_in* logic_out* *list_add_batch hex_dump_to_buffer print_hex_dump*
"""
# kernel/printk, lib/vsprintf.c, drivers/base/core.c's dev_printk.
_PRINT = """
    *printk* string string_nocheck pointer vsnprintf snprintf scnprintf vscnprintf sprintf vsprintf kasprintf
    kvasprintf* va_format widen_string escaped_string symbol_string hex_string *_address_string uuid_string *dev_info
    *dev_notice *dev_warn *dev_err *dev_alert *dev_crit *dev_emerg
"""
# Timers, work, kobjects, the driver core, USB's core: they find out, at the end, what their user did.
# kernel/time/timer.c, kernel/workqueue.c, lib/kobject*.c, drivers/{base,usb/core}, fs/sysfs, fs/{inode,dcache}.c.
_SERVICE = """
    del_timer* timer_delete* try_to_del_timer* lock_timer_base sk_stop_timer_sync mod_timer* flush_work* *_flush_work
    *_cancel_work_sync flush_delayed* cancel_work* cancel_delayed_work_sync try_to_grab_pending drain_workqueue
    destroy_workqueue queue_work* insert_work queue_delayed_work* kthread_stop* cleanup_srcu_struct* kobject_*
    add_uevent_var get_device_parent device_add device_del device_unregister device_destroy device_release*
    *_device_add *_device_del *_device_unregister *_device_destroy *_device_release device_add_disk dpm_sysfs_remove
    put_device devres_release_all device_for_each_child device_remove_file* sysfs_remove_* hwrng_unregister
    i2c_del_adapter unregister_client tty_unregister_device rollback_registered* unregister_netdev* dummy_urb_enqueue
    usb_kill_urb usb_kill_anchored_urbs usb_control_msg* usb_submit_urb usb_hcd_submit_urb iput iput_final ihold
    drop_nlink *dput*
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
    return any(names.has(form) for form in _forms(name))


def _forms(name: str) -> Iterable[str]:
    yield plain(name)
    yield name.lstrip("_")
