# SPDX-License-Identifier: Apache-2.0
"""Where the kernel's core hands over to what is registered with it, and what it waits in: for reports of stalls.

A CPU that is stuck in a system call, a timer or a work item may be found anywhere below it: what stays the same is the
function that the core called. A hung task is found in the scheduler, in a lock or in a wait, and what counts is who
called these.

>>> is_boundary("__x64_sys_ioctl"), is_boundary("process_one_work"), is_boundary("kl_work")
(True, True, False)
>>> is_waiting("wait_for_completion_timeout"), is_waiting("kl_flush")
(True, False)
"""

from __future__ import annotations

from functools import lru_cache

from .machinery import Names

__all__ = ["is_attribute", "is_boundary", "is_waiting", "shared_by_all"]

# arch/x86/entry, arch/arm64/kernel/syscall.c, arch/arm/kernel/entry-common.S, kernel/entry/common.c.
_CALLS = """
    *do_syscall_* *do_fast_syscall_* *sysenter_dispatch* *tracesys_phase2* *el0_svc_handler* *invoke_syscall*
    *ret_fast_syscall*
"""
# kernel/softirq.c, kernel/time/{timer,hrtimer}.c, kernel/smp.c, net/core/dev.c, arch/*/kernel/smp*.c.
_INTERRUPTS = """
    *do_softirq* *run_ksoftirqd* *call_timer_fn* *_run_timers* *run_timer_softirq* *hrtimer_run* *tasklet_action*
    *tasklet_hi_action* *smp_call_function* *netif_receive_skb* *start_secondary* *cpu_startup_entry*
"""
# kernel/{workqueue,kthread,smpboot,task_work}.c, fs/file_table.c, kernel/entry/common.c, mm/memory.c.
_TASKS = """
    *process_one_work* kthread *smpboot_thread_fn* *ret_from_fork* *task_work_run* *__fput* *exit_to_usermode*
    *do_page_fault* page_fault *__do_fault*
"""
# fs/{read_write,ioctl,open,compat}.c, block/ioctl.c, mm/{mmap,vma}.c.
_FILES = """
    *vfs_read* *vfs_write* *vfs_iter_read* *vfs_iter_write* *do_iter_read* *do_iter_write* *call_read_iter*
    *call_write_iter* *new_sync_read* *new_sync_write* *vfs_ioctl* *ksys_ioctl* *compat_ioctl* *compat_sys_ioctl*
    *blkdev_ioctl* *blkdev_driver_ioctl* *do_dentry_open* *vfs_open* call_mmap* *mmap_region* *do_mmap* sys_ioctl*
    ioctl*
"""
# net/socket.c, net/core/sock.c, net/netfilter/nfnetlink.c, net/core/rtnetlink.c, net/netlink/af_netlink.c.
_SOCKETS = """
    sock_sendmsg* sock_recvmsg* sock_mmap* sock_do_ioctl* sock_ioctl* sock_release* __sock_release* setsockopt
    *kernel_setsockopt* *sock_common_setsockopt* listen *kernel_listen* *sk_common_release* accept *kernel_accept*
    compat_sock_ioctl* nfnetlink_rcv_msg* rtnetlink_rcv_msg* netlink_dump* socketpair* sys_socketpair* connect*
    sys_connect*
"""
# fs/debugfs/file.c, fs/sysfs/file.c, fs/kernfs/file.c, kernel/params.c, drivers/base/core.c, lib/kobject.c,
# fs/proc/{inode,proc_sysctl}.c: what a write to one file of a driver comes by.
_ATTRIBUTES = Names.of(
    "full_proxy_* open_proxy_* simple_attr_* kernfs_fop_* sysfs_kf_* param_attr_* module_attr_* dev_attr_* kobj_attr_*",
    "proc_reg_* proc_sys_*",
)
_BOUNDARIES = Names.of(_CALLS, _INTERRUPTS, _TASKS, _FILES, _SOCKETS)


@lru_cache(maxsize=4096)
def is_boundary(name: str) -> bool:
    """Whether the kernel's core calls what is registered with it from here."""
    return _BOUNDARIES.has(_system_call(name))


@lru_cache(maxsize=4096)
def is_attribute(name: str) -> bool:
    """Whether a file of sysfs, debugfs or proc hands over here to the one driver that made it."""
    return _ATTRIBUTES.has(name)


# What the entry of a system call puts before its name, on the architectures and through the years: one of these.
_ENTRIES = ("__x64_", "__ia32_", "__arm64_", "__se_sys_", "__do_sys_", "__se_", "____sys_", "___sys_", "__sys_")
_OLD_ENTRIES = ("compat_SYSC_", "compat_SyS_", "SYSC_", "SyS_", "ksys_", "sys_")


def _system_call(name: str) -> str:
    return name.removeprefix(next((entry for entry in (*_ENTRIES, *_OLD_ENTRIES) if name.startswith(entry)), ""))


# kernel/sched, kernel/locking, kernel/rcu: a part of such a name says that something is waited for.
_WAITS = (
    *("sched", "switch_to", "context_switch", "kthread"),
    *("_lock", "_slowlock", "down", "rwsem"),
    *("completion", "wait", "synchronize", "rcu_barrier", "cancel_delayed_work"),
)


@lru_cache(maxsize=4096)
def is_waiting(name: str) -> bool:
    """Whether a function of a hung task only waits, for somebody else's sake."""
    return any(part in name for part in _WAITS)


_GRACE_PERIODS = frozenset(f"synchronize_{flavour}" for flavour in ("rcu", "srcu", "net", "sched"))


def shared_by_all(name: str) -> str | None:
    """What many tasks wait for at once, by one name: whoever has it is to blame, not the victim that was printed first.

    >>> shared_by_all("synchronize_rcu_expedited"), shared_by_all("rtnl_lock_killable"), shared_by_all("mutex_lock")
    ('synchronize_rcu', 'rtnl_lock_killable', None)
    """
    if "rtnl_lock" in name:
        return name
    return "synchronize_rcu" if any(grace in name for grace in _GRACE_PERIODS) else None
