/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.init_task() answers an error for a task that the scheduler could
 *          do without state for: here when a limit on the rate is exceeded.
 *
 * Result:  test-failed by `fork-storm`: fork() fails with that error (EAGAIN),
 *          and whoever forked believes that the machine is out of memory. The
 *          scheduler itself is not ejected. At the load it would be.
 *
 * Cure:    let the task in, and do without: a task that has no state is
 *          scheduled with defaults.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

#define MS	(1000 * 1000ULL)

static u64 began;
static u32 nr_forks;

s32 BPF_STRUCT_OPS(fork_fails_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

static void wake_idle_cpu(const struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(fork_fails_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(fork_fails_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(fork_fails_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	u64 now = bpf_ktime_get_ns();

	if (!args->fork)
		return 0;
	if (now - began > 20 * MS) {
		began = now;
		nr_forks = 0;
	}
	/* BUG: a fork bomb is not the scheduler's to stop. */
	return ++nr_forks > 10 ? -EAGAIN : 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(fork_fails_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(fork_fails_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(fork_fails_ops,
	       .select_cpu	= (void *)fork_fails_select_cpu,
	       .enqueue		= (void *)fork_fails_enqueue,
	       .dispatch	= (void *)fork_fails_dispatch,
	       .init_task	= (void *)fork_fails_init_task,
	       .init		= (void *)fork_fails_init,
	       .exit		= (void *)fork_fails_exit,
	       .timeout_ms	= 5000,
	       .name		= "fork_fails");
