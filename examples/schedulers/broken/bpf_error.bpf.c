/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: scx_bpf_error() is used for something that may happen. It is no
 *          warning: it unloads the scheduler.
 *
 * Result:  ejected (1025), with our own message, which begins with file and
 *          line of the source, once many tasks wait.
 *
 * Cure:    keep scx_bpf_error() for what must never happen. Count the rest in
 *          a map, or bpf_printk() it.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(bpf_error_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(bpf_error_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 limit = 2 * scx_bpf_nr_cpu_ids();
	s32 nr = scx_bpf_dsq_nr_queued(SHARED_DSQ);

	/* BUG: a long queue is no error. */
	if (nr > limit)
		scx_bpf_error("%d tasks queued, limit %d", nr, limit);

	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(bpf_error_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(bpf_error_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(bpf_error_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(bpf_error_ops,
	       .select_cpu	= (void *)bpf_error_select_cpu,
	       .enqueue		= (void *)bpf_error_enqueue,
	       .dispatch	= (void *)bpf_error_dispatch,
	       .init		= (void *)bpf_error_init,
	       .exit		= (void *)bpf_error_exit,
	       .timeout_ms	= 5000,
	       .name		= "bpf_error");
