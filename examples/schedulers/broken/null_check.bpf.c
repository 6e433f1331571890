/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: @prev of ops.dispatch() is NULL when the CPU ran nothing of ours,
 *          and is used without a test.
 *
 * Result:  refused by the verifier: "R1 invalid mem access
 *          'trusted_ptr_or_null_'".
 *
 * Cure:    if (prev && ...). The same goes for all that map lookups,
 *          bpf_task_from_pid() and the like return.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

u64 kept;

s32 BPF_STRUCT_OPS(null_check_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(null_check_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(null_check_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: if (prev && ...) */
	if (prev->scx.flags & SCX_TASK_QUEUED)
		kept++;
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(null_check_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(null_check_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(null_check_ops,
	       .select_cpu	= (void *)null_check_select_cpu,
	       .enqueue		= (void *)null_check_enqueue,
	       .dispatch	= (void *)null_check_dispatch,
	       .init		= (void *)null_check_init,
	       .exit		= (void *)null_check_exit,
	       .timeout_ms	= 5000,
	       .name		= "null_check");
