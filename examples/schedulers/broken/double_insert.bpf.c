/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: one pass through ops.enqueue() inserts the task twice.
 *
 * Result:  ejected at once, "NAME[PID] already direct-dispatched" (1024).
 *
 * Cure:    exactly one insert per pass: return after each, or use else.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, KTHREAD_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u32 turns;

s32 BPF_STRUCT_OPS(double_insert_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(double_insert_enqueue, struct task_struct *p, u64 enq_flags)
{
	/* BUG: kernel threads go on to the second insert. */
	if (p->flags & PF_KTHREAD)
		scx_bpf_dsq_insert(p, KTHREAD_DSQ, SLICE_NS, enq_flags);
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(double_insert_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 first = ++turns % 2 ? KTHREAD_DSQ : SHARED_DSQ;

	if (!scx_bpf_dsq_move_to_local(first, 0))
		scx_bpf_dsq_move_to_local(!first, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(double_insert_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(KTHREAD_DSQ, -1);
}

void BPF_STRUCT_OPS(double_insert_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(double_insert_ops,
	       .select_cpu	= (void *)double_insert_select_cpu,
	       .enqueue		= (void *)double_insert_enqueue,
	       .dispatch	= (void *)double_insert_dispatch,
	       .init		= (void *)double_insert_init,
	       .exit		= (void *)double_insert_exit,
	       .timeout_ms	= 5000,
	       .name		= "double_insert");
