/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a partial scheduler sets p->scx.disallow for all who have not asked
 *          for SCHED_EXT yet, to be left in peace by them. They can never ask
 *          again.
 *
 * Result:  test-failed by `partial`: sched_setscheduler() answers EACCES.
 *
 * Cure:    nothing: with SCX_OPS_SWITCH_PARTIAL only those come that ask.
 *          disallow is for who must not (the loader itself, say).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(partial_refuses_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(partial_refuses_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(partial_refuses_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(partial_refuses_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	/* BUG: this says never, not "not yet". Forks are asked elsewhere. */
	if (!args->fork && p->policy != 7 /* SCHED_EXT */)
		p->scx.disallow = true;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(partial_refuses_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(partial_refuses_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(partial_refuses_ops,
	       .select_cpu	= (void *)partial_refuses_select_cpu,
	       .enqueue		= (void *)partial_refuses_enqueue,
	       .dispatch	= (void *)partial_refuses_dispatch,
	       .init_task	= (void *)partial_refuses_init_task,
	       .init		= (void *)partial_refuses_init,
	       .exit		= (void *)partial_refuses_exit,
	       .flags		= SCX_OPS_SWITCH_PARTIAL,
	       .timeout_ms	= 5000,
	       .name		= "partial_refuses");
