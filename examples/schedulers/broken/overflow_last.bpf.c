/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the queue has room for 64 tasks; those that find it full wait until
 *          it is empty.
 *
 * Result:  test-failed or ejected (1026), by starvation: in a crowd of more
 *          than 64 the queue is never empty, and the rest waits for ever.
 *
 * Cure:    no room limit on a DSQ; or take the oldest of both queues by turns.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, OVERFLOW_DSQ };
enum { ROOM = 64 };
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(overflow_last_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(overflow_last_enqueue, struct task_struct *p, u64 enq_flags)
{
	bool full = scx_bpf_dsq_nr_queued(SHARED_DSQ) >= ROOM;

	scx_bpf_dsq_insert(p, full ? OVERFLOW_DSQ : SHARED_DSQ, SLICE_NS,
			   enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(overflow_last_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: who came late waits for all who come later. */
	if (!scx_bpf_dsq_move_to_local(SHARED_DSQ, 0))
		scx_bpf_dsq_move_to_local(OVERFLOW_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(overflow_last_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(OVERFLOW_DSQ, -1);
}

void BPF_STRUCT_OPS(overflow_last_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(overflow_last_ops,
	       .select_cpu	= (void *)overflow_last_select_cpu,
	       .enqueue	= (void *)overflow_last_enqueue,
	       .dispatch	= (void *)overflow_last_dispatch,
	       .init		= (void *)overflow_last_init,
	       .exit		= (void *)overflow_last_exit,
	       .timeout_ms	= 5000,
	       .name		= "overflow_last");
