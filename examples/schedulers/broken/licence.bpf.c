/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the licence is not compatible with the GPL.
 *
 * Result:  refused by the verifier: "cannot call GPL-restricted function from
 *          non-GPL compatible program". The program that it names,
 *          scx_lib_init_probe, comes with scx/common.bpf.h; ours would be
 *          next, with "struct ops programs must have a GPL compatible
 *          license".
 *
 * Cure:    char _license[] SEC("license") = "GPL". Think about what it means
 *          before you type it.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "Proprietary";	/* BUG */

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(licence_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(licence_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(licence_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(licence_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(licence_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(licence_ops,
	       .select_cpu	= (void *)licence_select_cpu,
	       .enqueue		= (void *)licence_enqueue,
	       .dispatch	= (void *)licence_dispatch,
	       .init		= (void *)licence_init,
	       .exit		= (void *)licence_exit,
	       .timeout_ms	= 5000,
	       .name		= "licence");
