# SPDX-License-Identifier: Apache-2.0
"""What is known of the kfuncs and helpers that schedulers call: their kernel's name, what they do, what they return.

From kernel/sched/ext/ext.c and idle.c of 7.3 (kernel/sched/ext.c and ext_idle.c before), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

__all__ = [
    "ALLOCATING",
    "ARITY",
    "CONSTANTS",
    "CPU_IN_MASK",
    "ERRORS",
    "IDLE",
    "MASK_TESTS",
    "NEGATIVE",
    "NULLABLE",
    "READERS",
    "RETURNS",
    "ROLE",
    "base_name",
]

# include/linux/sched/ext.h, kernel/sched/ext/internal.h: what __SCX_* variables hold once the loader has filled them.
CONSTANTS = {
    "SCX_DSQ_FLAG_BUILTIN": 1 << 63,
    "SCX_DSQ_FLAG_LOCAL_ON": 1 << 62,
    "SCX_DSQ_INVALID": 1 << 63,
    "SCX_DSQ_GLOBAL": 1 << 63 | 1,
    "SCX_DSQ_LOCAL": 1 << 63 | 2,
    "SCX_DSQ_LOCAL_ON": 3 << 62,
    "SCX_DSQ_LOCAL_CPU_MASK": 0xFFFFFFFF,
    "SCX_SLICE_DFL": 20_000_000,
    "SCX_SLICE_INF": (1 << 64) - 1,
    "SCX_KICK_IDLE": 1,
    "SCX_KICK_PREEMPT": 2,
    "SCX_KICK_WAIT": 4,
    "SCX_ENQ_PREEMPT": 1 << 32,
    "SCX_ENQ_IMMED": 1 << 33,
    "SCX_ENQ_REENQ": 1 << 40,
    "SCX_ENQ_LAST": 1 << 41,
    "SCX_OPS_KEEP_BUILTIN_IDLE": 1,
    "SCX_OPS_ENQ_LAST": 2,
    "SCX_OPS_ENQ_EXITING": 4,
    "SCX_OPS_SWITCH_PARTIAL": 8,
    "SCX_OPS_ENQ_MIGRATION_DISABLED": 16,
    "SCX_PICK_IDLE_CORE": 1,
}

# The names of all releases for one thing.
ROLE = {
    "scx_bpf_dsq_insert": "insert",
    "scx_bpf_dispatch": "insert",
    "scx_bpf_dsq_insert_vtime": "insert_vtime",
    "__scx_bpf_dsq_insert_vtime": "insert_vtime",
    "scx_bpf_dispatch_vtime": "insert_vtime",
    "scx_bpf_dsq_move_to_local": "consume",
    "scx_bpf_consume": "consume",
    "scx_bpf_dsq_move": "move",
    "scx_bpf_dispatch_from_dsq": "move",
    "scx_bpf_dsq_move_vtime": "move_vtime",
    "scx_bpf_dispatch_vtime_from_dsq": "move_vtime",
    "scx_bpf_create_dsq": "create",
    "bpf_iter_scx_dsq_new": "iterate",
    "scx_bpf_dsq_peek": "peek",
    "scx_bpf_dsq_reenq": "reenqueue",
    "scx_bpf_destroy_dsq": "destroy",
    "scx_bpf_select_cpu_and": "select_cpu_and",
    "__scx_bpf_select_cpu_and": "select_cpu_and",
    "scx_bpf_select_cpu_dfl": "select_cpu_dfl",
    "scx_bpf_kick_cpu": "kick",
    "scx_bpf_dispatch_nr_slots": "slots",
    "bpf_map_push_elem": "push",
    "bpf_map_pop_elem": "pop",
    "bpf_map_update_elem": "update",
    "scx_bpf_task_set_dsq_vtime": "set_vtime",
    "scx_bpf_task_set_slice": "set_slice",
}

# These give up: what follows them is of no weight.
ERRORS = frozenset(["scx_bpf_error_bstr", "scx_bpf_exit_bstr", "bpf_throw"])

# idle.c: those that begin with check_builtin_idle_enabled().
IDLE = frozenset(
    [
        "scx_bpf_select_cpu_dfl",
        "scx_bpf_select_cpu_and",
        "__scx_bpf_select_cpu_and",
        "scx_bpf_get_idle_cpumask",
        "scx_bpf_get_idle_cpumask_node",
        "scx_bpf_get_idle_smtmask",
        "scx_bpf_get_idle_smtmask_node",
        "scx_bpf_test_and_clear_cpu_idle",
        "scx_bpf_pick_idle_cpu",
        "scx_bpf_pick_idle_cpu_node",
    ]
)

# A negative error where no CPU is idle.
NEGATIVE = frozenset(
    ["scx_bpf_pick_idle_cpu", "scx_bpf_pick_idle_cpu_node", "scx_bpf_select_cpu_and", "__scx_bpf_select_cpu_and"]
)

# A CPU of the mask that is argument number so.
CPU_IN_MASK = {
    "scx_bpf_pick_idle_cpu": 0,
    "scx_bpf_pick_idle_cpu_node": 0,
    "scx_bpf_pick_any_cpu": 0,
    "scx_bpf_pick_any_cpu_node": 0,
    "bpf_cpumask_any_distribute": 0,
    "bpf_cpumask_first": 0,
}
MASK_TESTS = frozenset(["bpf_cpumask_test_cpu", "bpf_cpumask_test_and_clear_cpu", "bpf_cpumask_test_and_set_cpu"])

_CPU = (0, 8191)
_BOOL = (0, 1)
_ERRNO_OR_CPU = (-4095, 8191)
RETURNS = {
    "scx_bpf_select_cpu_dfl": _CPU,
    "scx_bpf_select_cpu_and": _ERRNO_OR_CPU,
    "__scx_bpf_select_cpu_and": _ERRNO_OR_CPU,
    "scx_bpf_pick_idle_cpu": _ERRNO_OR_CPU,
    "scx_bpf_pick_idle_cpu_node": _ERRNO_OR_CPU,
    "scx_bpf_pick_any_cpu": _ERRNO_OR_CPU,
    "scx_bpf_pick_any_cpu_node": _ERRNO_OR_CPU,
    "scx_bpf_task_cpu": _CPU,
    "scx_bpf_nr_cpu_ids": (1, 8192),
    "scx_bpf_test_and_clear_cpu_idle": _BOOL,
    "scx_bpf_dsq_move_to_local": _BOOL,
    "scx_bpf_consume": _BOOL,
    "scx_bpf_dsq_move": _BOOL,
    "scx_bpf_dsq_move_vtime": _BOOL,
    "scx_bpf_dispatch_from_dsq": _BOOL,
    "scx_bpf_dispatch_vtime_from_dsq": _BOOL,
    "scx_bpf_task_running": _BOOL,
    "scx_bpf_dispatch_nr_slots": (0, 1 << 31),
    "scx_bpf_dsq_nr_queued": (-4095, (1 << 31) - 1),
    "scx_bpf_create_dsq": (-4095, 0),
    "bpf_cpumask_test_cpu": _BOOL,
    "bpf_cpumask_test_and_clear_cpu": _BOOL,
    "bpf_cpumask_test_and_set_cpu": _BOOL,
    "bpf_cpumask_subset": _BOOL,
    "bpf_cpumask_intersects": _BOOL,
    "bpf_cpumask_empty": _BOOL,
    "bpf_cpumask_full": _BOOL,
    "bpf_cpumask_equal": _BOOL,
    "bpf_cpumask_and": _BOOL,
    "bpf_cpumask_first": (0, 8192),
    "bpf_cpumask_any_distribute": (0, 8192),
    "bpf_cpumask_any_and_distribute": (0, 8192),
    "bpf_cpumask_first_and": (0, 8192),
    "bpf_get_smp_processor_id": _CPU,
    "bpf_get_prandom_u32": (0, (1 << 32) - 1),
    "bpf_map_push_elem": (-4095, 0),
    "bpf_map_pop_elem": (-4095, 0),
    "bpf_map_update_elem": (-4095, 0),
    "bpf_map_delete_elem": (-4095, 0),
    "scx_bpf_cpu_node": (0, 1023),
    "scx_bpf_nr_node_ids": (1, 1024),
}

# A pointer, or NULL where there is no such thing: who tests for NULL guards against what does not happen.
NULLABLE = frozenset(
    [
        "bpf_map_lookup_elem",
        "bpf_map_lookup_percpu_elem",
        "bpf_task_storage_get",
        "bpf_cgrp_storage_get",
        "bpf_task_from_pid",
        "bpf_task_acquire",
        "bpf_cgroup_from_id",
        "bpf_cgroup_acquire",
        "bpf_cgroup_ancestor",
        "bpf_kptr_xchg",
        "bpf_per_cpu_ptr",
        "bpf_this_cpu_ptr",
        "bpf_cpumask_create",
        "bpf_cpumask_acquire",
        "scx_bpf_cpu_curr",
        "scx_bpf_cpu_rq",
        "scx_bpf_locked_rq",
        "scx_bpf_tid_to_task",
        "bpf_rbtree_first",
        "bpf_rdonly_cast",
        "bpf_obj_new_impl",
    ]
)

# NULL when memory is short, which does happen.
ALLOCATING = frozenset(["bpf_obj_new_impl", "bpf_obj_new"])

# Those that only read what a pointer to the stack leads to.
READERS = frozenset(
    [
        "bpf_map_lookup_elem",
        "bpf_map_lookup_percpu_elem",
        "bpf_map_update_elem",
        "bpf_map_delete_elem",
        "bpf_map_push_elem",
        "__scx_bpf_dsq_insert_vtime",
        "__scx_bpf_select_cpu_and",
        "bpf_trace_printk",
        "bpf_trace_vprintk",
        "scx_bpf_error_bstr",
        "scx_bpf_exit_bstr",
        "scx_bpf_dump_bstr",
        "bpf_ringbuf_output",
        "bpf_perf_event_output",
        "bpf_iter_num_next",
        "bpf_iter_scx_dsq_next",
        "bpf_iter_num_destroy",
        "bpf_iter_scx_dsq_destroy",
    ]
)

ARITY = {
    "bpf_map_lookup_elem": 2,
    "bpf_map_update_elem": 4,
    "bpf_map_delete_elem": 2,
    "bpf_map_push_elem": 3,
    "bpf_map_pop_elem": 2,
    "bpf_map_peek_elem": 2,
    "bpf_map_lookup_percpu_elem": 3,
    "bpf_ktime_get_ns": 0,
    "bpf_ktime_get_boot_ns": 0,
    "bpf_get_smp_processor_id": 0,
    "bpf_get_current_task_btf": 0,
    "bpf_get_current_task": 0,
    "bpf_get_prandom_u32": 0,
    "bpf_task_storage_get": 4,
    "bpf_cgrp_storage_get": 4,
    "bpf_trace_printk": 5,
    "bpf_probe_read_kernel": 3,
    "bpf_probe_read_kernel_str": 3,
    "bpf_timer_init": 3,
    "bpf_timer_start": 3,
    "bpf_timer_set_callback": 2,
    "bpf_timer_cancel": 1,
    "bpf_spin_lock": 1,
    "bpf_spin_unlock": 1,
    "bpf_kptr_xchg": 2,
    "bpf_this_cpu_ptr": 1,
    "bpf_per_cpu_ptr": 2,
    "bpf_loop": 4,
    "bpf_for_each_map_elem": 4,
    "bpf_ringbuf_reserve": 3,
    "bpf_ringbuf_submit": 2,
    "bpf_ringbuf_discard": 2,
    "bpf_ringbuf_output": 4,
    "scx_bpf_dsq_insert": 4,
    "scx_bpf_dispatch": 4,
    "scx_bpf_dsq_insert_vtime": 5,
    "__scx_bpf_dsq_insert_vtime": 2,
    "scx_bpf_dispatch_vtime": 5,
    "scx_bpf_dsq_move_to_local": 2,
    "scx_bpf_consume": 1,
    "scx_bpf_dsq_move": 4,
    "scx_bpf_dsq_move_vtime": 4,
    "scx_bpf_dispatch_from_dsq": 4,
    "scx_bpf_dispatch_vtime_from_dsq": 4,
    "scx_bpf_create_dsq": 2,
    "scx_bpf_destroy_dsq": 1,
    "scx_bpf_kick_cpu": 2,
    "scx_bpf_task_cpu": 1,
    "scx_bpf_task_running": 1,
    "scx_bpf_dsq_nr_queued": 1,
    "scx_bpf_select_cpu_dfl": 4,
    "scx_bpf_select_cpu_and": 5,
    "__scx_bpf_select_cpu_and": 3,
    "scx_bpf_pick_idle_cpu": 2,
    "scx_bpf_pick_any_cpu": 2,
    "scx_bpf_pick_idle_cpu_node": 3,
    "scx_bpf_pick_any_cpu_node": 3,
    "scx_bpf_test_and_clear_cpu_idle": 1,
    "scx_bpf_get_idle_cpumask": 0,
    "scx_bpf_get_idle_smtmask": 0,
    "scx_bpf_put_idle_cpumask": 1,
    "scx_bpf_nr_cpu_ids": 0,
    "scx_bpf_now": 0,
    "scx_bpf_dispatch_nr_slots": 0,
    "scx_bpf_dispatch_cancel": 0,
    "scx_bpf_error_bstr": 3,
    "scx_bpf_exit_bstr": 4,
    "scx_bpf_dump_bstr": 3,
    "scx_bpf_task_cgroup": 1,
    "scx_bpf_task_set_slice": 2,
    "scx_bpf_task_set_dsq_vtime": 2,
    "scx_bpf_reenqueue_local": 0,
    "bpf_iter_num_new": 3,
    "bpf_iter_num_next": 1,
    "bpf_iter_num_destroy": 1,
    "bpf_iter_scx_dsq_new": 3,
    "bpf_iter_scx_dsq_next": 1,
    "bpf_iter_scx_dsq_destroy": 1,
    "bpf_cpumask_test_cpu": 2,
    "bpf_cpumask_first": 1,
    "bpf_cpumask_any_distribute": 1,
    "bpf_cpumask_any_and_distribute": 2,
    "bpf_task_from_pid": 1,
    "bpf_task_release": 1,
    "bpf_task_acquire": 1,
    "bpf_rcu_read_lock": 0,
    "bpf_rcu_read_unlock": 0,
    "bpf_cgroup_release": 1,
    "bpf_cgroup_from_id": 1,
}


def base_name(name: str) -> str:
    """The kernel's name without what headers and kernels hang on it: ___v2, ___compat, ___new."""
    at = name.find("___", 1)
    return name if at < 0 else name[:at]
