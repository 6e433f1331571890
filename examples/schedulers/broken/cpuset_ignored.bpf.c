/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: cpusets are ignored. A task goes to the queue of the first CPU that
 *          it asked for, and p->user_cpus_ptr is only what sched_setaffinity()
 *          asked for: a cpuset narrows p->cpus_ptr and leaves it alone.
 *
 * Result:  ejected, "NAME[PID] failed to run for 6.5s" (1026), when the cgroup's
 *          cpuset shrinks: the task waits in the queue of a CPU that must not
 *          run it. Re-pinning tasks shows nothing, so the affinity storm passes.
 *
 * Cure:    p->cpus_ptr is what holds, whoever asked for it.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64			/* DSQ ids are CPU numbers */
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u32 turns;

static u32 nr_queues(void)
{
	u32 nr = scx_bpf_nr_cpu_ids();

	return nr < MAX_CPUS ? nr : MAX_CPUS;
}

/* The first CPU that a task asked for, -1 when it did not ask. */
static s32 asked_for(const struct task_struct *p)
{
	u32 i;

	if (!p->user_cpus_ptr)
		return -1;
	bpf_for(i, 0, nr_queues())
		if (p->user_cpus_ptr->bits[0] & (1ULL << i))
			return i;
	return -1;
}

void BPF_STRUCT_OPS(cpuset_ignored_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	s32 cpu = asked_for(p);

	/* Kernel threads do not ask, they are bound. */
	if (p->flags & PF_KTHREAD) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}
	/* BUG: whatever p->cpus_ptr says. */
	if (cpu < 0)
		cpu = ++turns % nr_queues();
	scx_bpf_dsq_insert(p, cpu, SLICE_NS, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(cpuset_ignored_dispatch, s32 cpu, struct task_struct *prev)
{
	if (cpu < MAX_CPUS)
		scx_bpf_dsq_move_to_local(cpu, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(cpuset_ignored_init)
{
	s32 ret;
	u32 i;

	bpf_for(i, 0, nr_queues()) {
		ret = scx_bpf_create_dsq(i, -1);
		if (ret)
			return ret;
	}
	return 0;
}

void BPF_STRUCT_OPS(cpuset_ignored_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(cpuset_ignored_ops,
	       .enqueue		= (void *)cpuset_ignored_enqueue,
	       .dispatch	= (void *)cpuset_ignored_dispatch,
	       .init		= (void *)cpuset_ignored_init,
	       .exit		= (void *)cpuset_ignored_exit,
	       .timeout_ms	= 5000,
	       .name		= "cpuset_ignored");
