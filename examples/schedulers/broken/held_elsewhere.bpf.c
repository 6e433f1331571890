/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: an order to another CPU for a task that has migration disabled.
 *          p->nr_cpus_allowed still counts all CPUs then; p->cpus_ptr has one.
 *
 * Result:  ejected, "SCX_DSQ_LOCAL[_ON] cannot move migration disabled ..."
 *          (1024), when such a task's slice ends. They come to ops.enqueue()
 *          because of SCX_OPS_ENQ_MIGRATION_DISABLED; without that flag the
 *          kernel keeps them where they are (6.12 has no such flag, and there
 *          p->cpus_ptr is still the old one at that moment).
 *
 * Cure:    before an order ask both, p->cpus_ptr and is_migration_disabled(p);
 *          or put the task into a DSQ of your own, from which the right CPU
 *          takes it.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(held_elsewhere_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(held_elsewhere_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	s32 cpu = (scx_bpf_task_cpu(p) + 1) % scx_bpf_nr_cpu_ids();

	/* BUG: a number is no mask. */
	if (p->nr_cpus_allowed == scx_bpf_nr_cpu_ids()) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SLICE_NS,
				   enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(held_elsewhere_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(held_elsewhere_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(held_elsewhere_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(held_elsewhere_ops,
	       .select_cpu	= (void *)held_elsewhere_select_cpu,
	       .enqueue		= (void *)held_elsewhere_enqueue,
	       .dispatch	= (void *)held_elsewhere_dispatch,
	       .init		= (void *)held_elsewhere_init,
	       .exit		= (void *)held_elsewhere_exit,
	       .flags		= SCX_OPS_ENQ_MIGRATION_DISABLED,
	       .timeout_ms	= 5000,
	       .name		= "held_elsewhere");
