/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: slices of 200 ms, and nothing that cuts them short.
 *
 * Result:  test-failed, by sleeper: who sleeps and works by turns waits for as
 *          many slices as there are hogs before it.
 *
 * Cure:    slices of some milliseconds, or a kick with SCX_KICK_PREEMPT for who
 *          has slept.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(200 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(long_slice_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(long_slice_enqueue, struct task_struct *p, u64 enq_flags)
{
	/* BUG: the slice is the latency of all others. */
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(long_slice_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(long_slice_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(long_slice_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(long_slice_ops,
	       .select_cpu	= (void *)long_slice_select_cpu,
	       .enqueue	= (void *)long_slice_enqueue,
	       .dispatch	= (void *)long_slice_dispatch,
	       .init		= (void *)long_slice_init,
	       .exit		= (void *)long_slice_exit,
	       .timeout_ms	= 5000,
	       .name		= "long_slice");
