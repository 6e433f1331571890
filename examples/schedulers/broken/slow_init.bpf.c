/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.init_task() does for each task what could be done once: it walks
 *          over a table of all CPU pairs.
 *
 * Result:  test-failed by `reload`: enabling takes seconds, and every fork() on
 *          the machine waits for it (scx_fork_rwsem, kernel/sched/ext/ext.c).
 *
 * Cure:    compute such things in ops.init(), or before the load; keep
 *          ops.init_task() to what a task needs.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

#define NR_PAIRS	(512 * 1024)

static u8 distance[1024];
static u64 sum;

static int add_pair(u32 i, void *ctx)
{
	sum += distance[i % 1024] + i;
	return 0;
}

s32 BPF_STRUCT_OPS(slow_init_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(slow_init_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(slow_init_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(slow_init_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	/* BUG: half a million steps for each task that there is. */
	bpf_loop(NR_PAIRS, add_pair, NULL, 0);
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(slow_init_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(slow_init_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(slow_init_ops,
	       .select_cpu	= (void *)slow_init_select_cpu,
	       .enqueue		= (void *)slow_init_enqueue,
	       .dispatch	= (void *)slow_init_dispatch,
	       .init_task	= (void *)slow_init_init_task,
	       .init		= (void *)slow_init_init,
	       .exit		= (void *)slow_init_exit,
	       .timeout_ms	= 5000,
	       .name		= "slow_init");
