/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: scx_bpf_dsq_move_to_local(), which only ops.dispatch() may call,
 *          is called in ops.enqueue().
 *
 * Result:  7.x refuses the program: "calling kernel function
 *          scx_bpf_dsq_move_to_local___v2 is not allowed". Older kernels
 *          eject it when it happens, "kfunc with mask 0x2 called from an
 *          operation only allowing 0x4" (1024).
 *
 * Cure:    enqueue only queues and kicks; a kicked CPU calls ops.dispatch()
 *          by itself.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(wrong_context_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(wrong_context_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);

	/* BUG: dispatch does this. */
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(wrong_context_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(wrong_context_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(wrong_context_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(wrong_context_ops,
	       .select_cpu	= (void *)wrong_context_select_cpu,
	       .enqueue		= (void *)wrong_context_enqueue,
	       .dispatch	= (void *)wrong_context_dispatch,
	       .init		= (void *)wrong_context_init,
	       .exit		= (void *)wrong_context_exit,
	       .timeout_ms	= 5000,
	       .name		= "wrong_context");
