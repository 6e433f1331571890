/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a task is sent to the local DSQ of a CPU that it must not run on.
 *
 * Result:  ejected, "SCX_DSQ_LOCAL[_ON] target CPU N not allowed for
 *          NAME[PID]" (1024), once a user task is pinned (taskset, cpusets).
 *
 * Cure:    bpf_cpumask_test_cpu(cpu, p->cpus_ptr) before each
 *          SCX_DSQ_LOCAL_ON; better, a DSQ of your own and
 *          scx_bpf_dsq_move_to_local(), which asks for you (percpu.bpf.c).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SLICE_NS	(5 * 1000 * 1000ULL)

static u32 next_cpu;

s32 BPF_STRUCT_OPS(bad_affinity_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(bad_affinity_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 cpu;

	if (p->flags & PF_KTHREAD) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}

	/* BUG: is this CPU in p->cpus_ptr? */
	cpu = __sync_fetch_and_add(&next_cpu, 1) % scx_bpf_nr_cpu_ids();
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SLICE_NS, enq_flags);
}

void BPF_STRUCT_OPS(bad_affinity_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(bad_affinity_ops,
	       .select_cpu	= (void *)bad_affinity_select_cpu,
	       .enqueue		= (void *)bad_affinity_enqueue,
	       .exit		= (void *)bad_affinity_exit,
	       .timeout_ms	= 5000,
	       .name		= "bad_affinity");
