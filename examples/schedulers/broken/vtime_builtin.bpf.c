/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a task is inserted by virtual time into a built-in DSQ.
 *
 * Result:  ejected at once, "cannot use vtime ordering for built-in DSQs"
 *          (1024).
 *
 * Cure:    built-in DSQs (LOCAL, LOCAL_ON, GLOBAL) are first in, first out.
 *          Sort in a DSQ of your own.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(vtime_builtin_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(vtime_builtin_enqueue, struct task_struct *p, u64 enq_flags)
{
	/* BUG: the global DSQ cannot be sorted. */
	scx_bpf_dsq_insert_vtime(p, SCX_DSQ_GLOBAL, SLICE_NS,
				 p->scx.dsq_vtime, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(vtime_builtin_stopping, struct task_struct *p,
		    bool runnable)
{
	u64 used = SLICE_NS - p->scx.slice;

	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      scale_by_task_weight_inverse(p, used));
}

void BPF_STRUCT_OPS(vtime_builtin_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(vtime_builtin_ops,
	       .select_cpu	= (void *)vtime_builtin_select_cpu,
	       .enqueue		= (void *)vtime_builtin_enqueue,
	       .stopping	= (void *)vtime_builtin_stopping,
	       .exit		= (void *)vtime_builtin_exit,
	       .timeout_ms	= 5000,
	       .name		= "vtime_builtin");
