/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: strict priority: tasks with nice > 0 run only when there is no
 *          other.
 *
 * Result:  ejected, "NAME[PID] failed to run for 6.5s" (1026), when enough
 *          tasks of nice <= 0 keep all CPUs busy for timeout_ms.
 *
 * Cure:    a limit on how long the unimportant wait: ageing as in prio.bpf.c,
 *          or every n-th turn.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, NICE_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(greedy_priority_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(greedy_priority_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u32 dsq = p->static_prio > 120 ? NICE_DSQ : SHARED_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(greedy_priority_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: NICE_DSQ may wait for ever. */
	if (!scx_bpf_dsq_move_to_local(SHARED_DSQ, 0))
		scx_bpf_dsq_move_to_local(NICE_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(greedy_priority_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(NICE_DSQ, -1);
}

void BPF_STRUCT_OPS(greedy_priority_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(greedy_priority_ops,
	       .select_cpu	= (void *)greedy_priority_select_cpu,
	       .enqueue		= (void *)greedy_priority_enqueue,
	       .dispatch	= (void *)greedy_priority_dispatch,
	       .init		= (void *)greedy_priority_init,
	       .exit		= (void *)greedy_priority_exit,
	       .timeout_ms	= 5000,
	       .name		= "greedy_priority");
