/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: FIFO inserts and vtime inserts meet in one DSQ.
 *
 * Result:  ejected, "DSQ ID 0x0000000000000000 already had PRIQ-enqueued
 *          tasks" (1024), or FIFO-enqueued, when a kernel thread and a user
 *          task wait at the same time. Nothing happens as long as either
 *          waits alone.
 *
 * Cure:    a DSQ is sorted or not. To go first in a sorted one, use an early
 *          vtime; or give kernel threads a DSQ of their own.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u64 vtime_now;

s32 BPF_STRUCT_OPS(mix_fifo_vtime_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(mix_fifo_vtime_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;

	if (time_before(vtime, vtime_now - SLICE_NS))
		vtime = vtime_now - SLICE_NS;

	/* BUG: the queue is sorted, SCX_ENQ_HEAD does not help. */
	if (p->flags & PF_KTHREAD)
		scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS,
				   enq_flags | SCX_ENQ_HEAD);
	else
		scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SLICE_NS, vtime,
					 enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(mix_fifo_vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(mix_fifo_vtime_running, struct task_struct *p)
{
	if (time_before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(mix_fifo_vtime_stopping, struct task_struct *p,
		    bool runnable)
{
	u64 used = SLICE_NS - p->scx.slice;

	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      scale_by_task_weight_inverse(p, used));
}

void BPF_STRUCT_OPS(mix_fifo_vtime_enable, struct task_struct *p)
{
	scx_bpf_task_set_dsq_vtime(p, vtime_now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(mix_fifo_vtime_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(mix_fifo_vtime_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(mix_fifo_vtime_ops,
	       .select_cpu	= (void *)mix_fifo_vtime_select_cpu,
	       .enqueue		= (void *)mix_fifo_vtime_enqueue,
	       .dispatch	= (void *)mix_fifo_vtime_dispatch,
	       .running		= (void *)mix_fifo_vtime_running,
	       .stopping	= (void *)mix_fifo_vtime_stopping,
	       .enable		= (void *)mix_fifo_vtime_enable,
	       .init		= (void *)mix_fifo_vtime_init,
	       .exit		= (void *)mix_fifo_vtime_exit,
	       .timeout_ms	= 5000,
	       .name		= "mix_fifo_vtime");
