/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: tasks of SCHED_BATCH run only when nobody else wants to.
 *
 * Result:  test-failed, by policy-mix: on a busy machine they wait for
 *          seconds. If that lasts for timeout_ms: ejected, a stall (1026).
 *
 * Cure:    batch says that throughput counts more than latency: longer
 *          slices and no preemption, but the same share.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, BATCH_DSQ };
#define SCHED_BATCH	3
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(batch_last_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(batch_last_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 dsq = p->policy == SCHED_BATCH ? BATCH_DSQ : SHARED_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(batch_last_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: BATCH_DSQ may wait for ever. */
	if (!scx_bpf_dsq_move_to_local(SHARED_DSQ, 0))
		scx_bpf_dsq_move_to_local(BATCH_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(batch_last_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(BATCH_DSQ, -1);
}

void BPF_STRUCT_OPS(batch_last_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(batch_last_ops,
	       .select_cpu	= (void *)batch_last_select_cpu,
	       .enqueue	= (void *)batch_last_enqueue,
	       .dispatch	= (void *)batch_last_dispatch,
	       .init		= (void *)batch_last_init,
	       .exit		= (void *)batch_last_exit,
	       .timeout_ms	= 5000,
	       .name		= "batch_last");
