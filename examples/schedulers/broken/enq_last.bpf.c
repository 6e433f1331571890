/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: SCX_OPS_ENQ_LAST says "ask ops.enqueue() also about the last task
 *          of a CPU", and there is no ops.enqueue().
 *
 * Result:  never starts, "SCX_OPS_ENQ_LAST requires ops.enqueue() to be
 *          implemented" (1024).
 *
 * Cure:    drop the flag: without it the kernel keeps the last task running,
 *          which is nearly always right.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(enq_last_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(enq_last_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(enq_last_ops,
	       .select_cpu	= (void *)enq_last_select_cpu,
	       .exit		= (void *)enq_last_exit,
	       /* BUG: this flag needs .enqueue. */
	       .flags		= SCX_OPS_ENQ_LAST,
	       .timeout_ms	= 5000,
	       .name		= "enq_last");
