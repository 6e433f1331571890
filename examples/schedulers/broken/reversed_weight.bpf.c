/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the weight is multiplied with, where one has to divide by it: heavy
 *          tasks age fast.
 *
 * Result:  test-failed, by fairness: a task at nice 0 gets a third of what one
 *          at nice 5 gets, instead of three times as much. Nobody starves, so
 *          the kernel says nothing.
 *
 * Cure:    vtime += used * 100 / weight.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u64 vtime_now;

s32 BPF_STRUCT_OPS(reversed_weight_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(reversed_weight_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;

	if (time_before(vtime, vtime_now - SLICE_NS))
		vtime = vtime_now - SLICE_NS;
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SLICE_NS, vtime, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(reversed_weight_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(reversed_weight_running, struct task_struct *p)
{
	if (time_before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(reversed_weight_stopping, struct task_struct *p, bool runnable)
{
	u64 used = SLICE_NS - p->scx.slice;

	/* BUG: reversed. */
	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      used * p->scx.weight / 100);
}

void BPF_STRUCT_OPS(reversed_weight_enable, struct task_struct *p)
{
	scx_bpf_task_set_dsq_vtime(p, vtime_now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(reversed_weight_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(reversed_weight_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(reversed_weight_ops,
	       .select_cpu	= (void *)reversed_weight_select_cpu,
	       .enqueue	= (void *)reversed_weight_enqueue,
	       .dispatch	= (void *)reversed_weight_dispatch,
	       .running	= (void *)reversed_weight_running,
	       .stopping	= (void *)reversed_weight_stopping,
	       .enable		= (void *)reversed_weight_enable,
	       .init		= (void *)reversed_weight_init,
	       .exit		= (void *)reversed_weight_exit,
	       .timeout_ms	= 5000,
	       .name		= "reversed_weight");
