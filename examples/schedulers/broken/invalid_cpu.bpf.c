/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.select_cpu() returns what scx_bpf_pick_idle_cpu() returned,
 *          which is -EBUSY when no CPU is idle.
 *
 * Result:  ejected, "invalid CPU -16 from ops.select_cpu()" (1024). It takes
 *          a wake-up while all CPUs are busy: a second of work, even on a
 *          quiet machine.
 *
 * Cure:    test for < 0 and fall back to prev_cpu.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

static void wake_idle_cpu(const struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

s32 BPF_STRUCT_OPS(invalid_cpu_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu >= 0)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);

	/* BUG: return cpu >= 0 ? cpu : prev_cpu; */
	return cpu;
}

void BPF_STRUCT_OPS(invalid_cpu_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(invalid_cpu_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(invalid_cpu_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(invalid_cpu_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(invalid_cpu_ops,
	       .select_cpu	= (void *)invalid_cpu_select_cpu,
	       .enqueue		= (void *)invalid_cpu_enqueue,
	       .dispatch	= (void *)invalid_cpu_dispatch,
	       .init		= (void *)invalid_cpu_init,
	       .exit		= (void *)invalid_cpu_exit,
	       .timeout_ms	= 5000,
	       .name		= "invalid_cpu");
