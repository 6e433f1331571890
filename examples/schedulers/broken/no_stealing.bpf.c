/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a queue per CPU, and nobody looks into those of others.
 *
 * Result:  test-failed, by work-conservation: tasks that were all on one CPU
 *          stay there, and the others are idle.
 *
 * Cure:    select_cpu looks for an idle CPU, and a CPU whose queue is empty
 *          takes from the others, as in percpu.bpf.c.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(no_stealing_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	/* BUG: where it was before, be that CPU as busy as it may. */
	return prev_cpu;
}

void BPF_STRUCT_OPS(no_stealing_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);

	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		cpu = bpf_cpumask_first(p->cpus_ptr);
	if (cpu < 0 || cpu >= MAX_CPUS) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, cpu, SLICE_NS, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(no_stealing_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(cpu, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(no_stealing_init)
{
	s32 ret;
	u32 i;

	bpf_for(i, 0, MAX_CPUS) {
		ret = scx_bpf_create_dsq(i, -1);
		if (ret)
			return ret;
	}
	return 0;
}

void BPF_STRUCT_OPS(no_stealing_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(no_stealing_ops,
	       .select_cpu	= (void *)no_stealing_select_cpu,
	       .enqueue	= (void *)no_stealing_enqueue,
	       .dispatch	= (void *)no_stealing_dispatch,
	       .init		= (void *)no_stealing_init,
	       .exit		= (void *)no_stealing_exit,
	       .timeout_ms	= 5000,
	       .name		= "no_stealing");
