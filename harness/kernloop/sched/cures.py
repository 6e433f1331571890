# SPDX-License-Identifier: Apache-2.0
"""What to look at first in a scheduler that fails a test: the mistake that the test is there for."""

from __future__ import annotations

__all__ = ["cure"]

_CURES = {
    "idle": "wake an idle CPU for each task that is enqueued: scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE)",
    "saturation": "bound how long anybody waits: no strict priority, and clamp the virtual time of who slept",
    "fork-storm": "look at ops.enable and init_task: a new task starts at the present and is queued like any other",
    "affinity-storm": "ask bpf_cpumask_test_cpu(cpu, p->cpus_ptr) for each CPU that is chosen, at the time it is used",
    "cgroup-storm": "give back in ops.cgroup_exit what ops.cgroup_init took; serve each group's queue by turns",
    "cgroup-weights": "charge used * 100 / the cgroup's weight; a slice ends on a tick: unequal ones need several each",
    "leak": "free in exit_task what a task has in maps and lists, or use task storage, which goes with its task",
    "wakeup": "insert to SCX_DSQ_LOCAL when select_cpu finds an idle CPU; else kick one after the insert",
    "fairness": "charge used * 100 / p->scx.weight: the weight divides; and charge the task that keeps running",
    "sleeper": "shorten the slice, put who slept ahead within limits, or preempt for it (SCX_KICK_PREEMPT)",
    "work-conservation": "kick an idle CPU after each insert, and let a CPU that is out of work take from other queues",
    "kthreads": "let kernel threads (PF_KTHREAD) run first or within a short bound: others wait for their work",
    "policy-mix": "a policy or nice value is a share, not a permission to starve: serve each queue by turns",
    "policy-flips": "make task state in init_task, free it in exit_task; enable and disable are of the policy",
    "rt-dl": "do less in one op: it runs with interrupts off; bound loops over tasks and CPUs",
    "starvation": "give each queue its turn, clamp virtual time after sleep, start new tasks at the present",
}


def cure(test: str) -> str:
    """In one line, "" for tests whose own words say it all."""
    return _CURES.get(test, "")
