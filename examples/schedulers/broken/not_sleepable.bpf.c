/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.init is declared with BPF_STRUCT_OPS and calls
 *          scx_bpf_create_dsq(), which allocates memory and may sleep.
 *
 * Result:  refused by the verifier: "program must be sleepable to call
 *          sleepable kfunc scx_bpf_create_dsq".
 *
 * Cure:    BPF_STRUCT_OPS_SLEEPABLE. Only init, exit, init_task and a few
 *          cgroup ops may sleep.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(not_sleepable_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(not_sleepable_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(not_sleepable_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

/* BUG: BPF_STRUCT_OPS_SLEEPABLE */
s32 BPF_STRUCT_OPS(not_sleepable_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(not_sleepable_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(not_sleepable_ops,
	       .select_cpu	= (void *)not_sleepable_select_cpu,
	       .enqueue		= (void *)not_sleepable_enqueue,
	       .dispatch	= (void *)not_sleepable_dispatch,
	       .init		= (void *)not_sleepable_init,
	       .exit		= (void *)not_sleepable_exit,
	       .timeout_ms	= 5000,
	       .name		= "not_sleepable");
