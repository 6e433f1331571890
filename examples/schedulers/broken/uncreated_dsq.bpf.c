/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: tasks are inserted into a DSQ that nobody created.
 *
 * Result:  ejected at once, "non-existent DSQ 0x1" (1024; before 7.2 followed
 *          by "for NAME[PID]").
 *
 * Cure:    scx_bpf_create_dsq() in ops.init() for each id that is used. Name
 *          ids in one enum and create them in one loop.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, OTHER_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(uncreated_dsq_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(uncreated_dsq_enqueue, struct task_struct *p, u64 enq_flags)
{
	/* BUG: only SHARED_DSQ was created. */
	scx_bpf_dsq_insert(p, OTHER_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(uncreated_dsq_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(uncreated_dsq_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(uncreated_dsq_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(uncreated_dsq_ops,
	       .select_cpu	= (void *)uncreated_dsq_select_cpu,
	       .enqueue		= (void *)uncreated_dsq_enqueue,
	       .dispatch	= (void *)uncreated_dsq_dispatch,
	       .init		= (void *)uncreated_dsq_init,
	       .exit		= (void *)uncreated_dsq_exit,
	       .timeout_ms	= 5000,
	       .name		= "uncreated_dsq");
