/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: some path through ops.enqueue() puts the task nowhere.
 *
 * Result:  ejected, "NAME[PID] failed to run for 6.5s" (1026), as soon as a
 *          task with a nice value above 0 has to queue. In the dump the task
 *          has ops_state=2 and dsq_id=(n/a): the kernel gave it to us and
 *          never got it back.
 *
 * Cure:    each path inserts, or hands over to a queue that is drained. A
 *          default: branch costs nothing.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { URGENT_DSQ, NORMAL_DSQ };
enum { URGENT, NORMAL, BACKGROUND };
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u32 turns;

static int kind_of(const struct task_struct *p)
{
	if (p->static_prio < 120)
		return URGENT;
	return p->static_prio == 120 ? NORMAL : BACKGROUND;
}

s32 BPF_STRUCT_OPS(lost_task_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(lost_task_enqueue, struct task_struct *p, u64 enq_flags)
{
	/* BUG: the third kind, nice > 0, falls through. */
	switch (kind_of(p)) {
	case URGENT:
		scx_bpf_dsq_insert(p, URGENT_DSQ, SLICE_NS, enq_flags);
		break;
	case NORMAL:
		scx_bpf_dsq_insert(p, NORMAL_DSQ, SLICE_NS, enq_flags);
		break;
	}
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(lost_task_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 first = ++turns % 4 ? URGENT_DSQ : NORMAL_DSQ;
	u32 second = first == URGENT_DSQ ? NORMAL_DSQ : URGENT_DSQ;

	if (!scx_bpf_dsq_move_to_local(first, 0))
		scx_bpf_dsq_move_to_local(second, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(lost_task_init)
{
	s32 ret = scx_bpf_create_dsq(URGENT_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(NORMAL_DSQ, -1);
}

void BPF_STRUCT_OPS(lost_task_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(lost_task_ops,
	       .select_cpu	= (void *)lost_task_select_cpu,
	       .enqueue		= (void *)lost_task_enqueue,
	       .dispatch	= (void *)lost_task_dispatch,
	       .init		= (void *)lost_task_init,
	       .exit		= (void *)lost_task_exit,
	       .timeout_ms	= 5000,
	       .name		= "lost_task");
