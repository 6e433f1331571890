# SPDX-License-Identifier: Apache-2.0
"""The types of the kernel's variables that are not per CPU: BTF has none of them (pahole encodes .data..percpu only).

Of each the type and the file that defines it, in 6.12 and 7.3 alike unless it says otherwise.
"""

from __future__ import annotations

__all__ = ["GLOBALS"]

GLOBALS = {
    # tasks
    "init_task": "struct task_struct",  # init/init_task.c
    "init_pid_ns": "struct pid_namespace",  # kernel/pid.c
    "root_task_group": "struct task_group",  # kernel/sched/core.c
    "init_user_ns": "struct user_namespace",  # kernel/user.c
    "init_uts_ns": "struct uts_namespace",  # init/version.c
    "init_nsproxy": "struct nsproxy",  # kernel/nsproxy.c
    "init_css_set": "struct css_set",  # kernel/cgroup/cgroup.c
    "cgrp_dfl_root": "struct cgroup_root",  # kernel/cgroup/cgroup.c
    "total_forks": "unsigned long",  # kernel/fork.c
    "nr_threads": "int",  # kernel/fork.c
    # CPUs
    "__per_cpu_offset": "unsigned long []",  # arch/x86/kernel/setup_percpu.c
    "nr_cpu_ids": "unsigned int",  # kernel/smp.c
    "nr_node_ids": "unsigned int",  # mm/page_alloc.c
    "__cpu_possible_mask": "struct cpumask",  # kernel/cpu.c
    "__cpu_online_mask": "struct cpumask",  # kernel/cpu.c
    "__cpu_present_mask": "struct cpumask",  # kernel/cpu.c
    "__cpu_active_mask": "struct cpumask",  # kernel/cpu.c
    "sched_domains_mutex": "struct mutex",  # kernel/sched/topology.c
    "fair_sched_class": "struct sched_class",  # kernel/sched/fair.c
    "ext_sched_class": "struct sched_class",  # kernel/sched/ext.c
    "idle_sched_class": "struct sched_class",  # kernel/sched/idle.c
    "rt_sched_class": "struct sched_class",  # kernel/sched/rt.c
    "dl_sched_class": "struct sched_class",  # kernel/sched/deadline.c
    "stop_sched_class": "struct sched_class",  # kernel/sched/stop_task.c
    # time
    "jiffies_64": "u64",  # kernel/time/timer.c
    "jiffies": "unsigned long",  # arch/x86/kernel/vmlinux.lds.S: jiffies = jiffies_64
    "timekeeper_data": "struct tk_data []",  # kernel/time/timekeeping.c, since 6.17
    "avenrun": "unsigned long [3]",  # kernel/sched/loadavg.c
    "task_state_array": "const char * const [9]",  # fs/proc/array.c
    # sched_ext: kernel/sched/ext/ext.c in 7.3, kernel/sched/ext.c before
    "scx_root": "struct scx_sched *",  # since 6.16
    "scx_tasks": "struct list_head",
    "scx_switching_all": "bool",
    "scx_enable_state_var": "atomic_t",  # since 6.16
    "scx_ops_enable_state_var": "atomic_t",  # before 6.16
    "scx_nr_rejected": "atomic_long_t",
    "scx_hotplug_seq": "atomic_long_t",
    "scx_enable_seq": "atomic_long_t",
    "scx_watchdog_timeout": "unsigned long",  # before 7.1 or so, then a member of scx_sched
    "scx_watchdog_timestamp": "unsigned long",
    "scx_sched_all": "struct list_head",  # 7.x: all scheds
    # 6.12 to 6.15 have one scheduler in variables, later ones in scx_root
    "scx_ops": "struct sched_ext_ops",
    "scx_exit_kind": "atomic_t",
    "scx_exit_info": "struct scx_exit_info *",
    "scx_ops_bypass_depth": "int",
    "global_dsqs": "struct scx_dispatch_q **",
    "dsq_hash": "struct rhashtable",
    # BPF
    "map_idr": "struct idr",  # kernel/bpf/syscall.c
    "bpf_kallsyms": "struct list_head",  # kernel/bpf/core.c
    "prog_idr": "struct idr",  # kernel/bpf/syscall.c
    "link_idr": "struct idr",  # kernel/bpf/syscall.c
    "btf_idr": "struct idr",  # kernel/bpf/btf.c
    # memory
    "page_offset_base": "unsigned long",  # arch/x86/kernel/head64.c
    "vmalloc_base": "unsigned long",  # arch/x86/kernel/head64.c
    "vmemmap_base": "unsigned long",  # arch/x86/kernel/head64.c
    "phys_base": "unsigned long",  # arch/x86/kernel/head64.c
    "mem_section": "struct mem_section **",  # mm/sparse.c, with SPARSEMEM_EXTREME
    "node_data": "struct pglist_data *[]",  # arch/x86/mm/numa.c, mm/numa.c
    "slab_caches": "struct list_head",  # mm/slab_common.c
    "min_low_pfn": "unsigned long",  # mm/memblock.c
    "max_low_pfn": "unsigned long",  # mm/memblock.c
    "max_pfn": "unsigned long",  # mm/memblock.c
    "_totalram_pages": "atomic_long_t",  # mm/show_mem.c
    "node_states": "nodemask_t []",  # mm/page_alloc.c
    "vm_committed_as": "struct percpu_counter",  # mm/util.c
    "vmap_nodes": "struct vmap_node *",  # mm/vmalloc.c
    "nr_vmap_nodes": "unsigned int",  # mm/vmalloc.c
    "vmap_zone_size": "unsigned int",  # mm/vmalloc.c
    "hstates": "struct hstate []",  # mm/hugetlb.c
    "hugetlb_max_hstate": "int",  # mm/hugetlb.c
    "nr_swap_pages": "atomic_long_t",  # mm/swapfile.c
    "nr_swapfiles": "unsigned int",  # mm/swapfile.c
    "swap_info": "struct swap_info_struct *[]",  # mm/swapfile.c
    "total_swap_pages": "long",  # mm/swapfile.c
    "vm_node_stat": "atomic_long_t []",  # mm/vmstat.c
    "vm_zone_stat": "atomic_long_t []",  # mm/vmstat.c
    "init_mm": "struct mm_struct",  # mm/init-mm.c
    # the rest that drgn's helpers begin with
    "modules": "struct list_head",  # kernel/module/main.c
    "prb": "struct printk_ringbuffer *",  # kernel/printk/printk.c
    "saved_command_line": "char *",  # init/main.c
    "super_blocks": "struct list_head",  # fs/super.c
    "sysfs_root_kn": "struct kernfs_node *",  # fs/sysfs/mount.c
    "init_net": "struct net",  # net/core/net_namespace.c
    "net_namespace_list": "struct list_head",  # net/core/net_namespace.c
    "workqueues": "struct list_head",  # kernel/workqueue.c
    "worker_pool_idr": "struct idr",  # kernel/workqueue.c
    "sparse_irqs": "struct maple_tree",  # kernel/irq/irqdesc.c
    "panic_cpu": "atomic_t",  # kernel/panic.c
    "tainted_mask": "unsigned long",  # kernel/panic.c
    "blockdev_superblock": "struct super_block *",  # block/bdev.c
    "init_ipc_ns": "struct ipc_namespace",  # ipc/msgutil.c
}
