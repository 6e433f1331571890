/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: SCX_KICK_IDLE (only if that CPU sleeps) is combined with
 *          SCX_KICK_PREEMPT (only if it works).
 *
 * Result:  ejected at the first kick, "PREEMPT/WAIT cannot be used with
 *          SCX_KICK_IDLE" (1024).
 *
 * Cure:    SCX_KICK_IDLE for a CPU that was found idle, SCX_KICK_PREEMPT for
 *          a busy one.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(kick_flags_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(kick_flags_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);

	/* BUG: one or the other. */
	scx_bpf_kick_cpu(scx_bpf_task_cpu(p), SCX_KICK_IDLE | SCX_KICK_PREEMPT);
}

void BPF_STRUCT_OPS(kick_flags_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(kick_flags_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(kick_flags_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(kick_flags_ops,
	       .select_cpu	= (void *)kick_flags_select_cpu,
	       .enqueue		= (void *)kick_flags_enqueue,
	       .dispatch	= (void *)kick_flags_dispatch,
	       .init		= (void *)kick_flags_init,
	       .exit		= (void *)kick_flags_exit,
	       .timeout_ms	= 5000,
	       .name		= "kick_flags");
