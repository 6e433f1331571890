/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a loop that nothing bounds: it ends when the queue is empty, and
 *          the queue may never be.
 *
 * Result:  refused by the verifier: "infinite loop detected at insn N".
 *
 * Cure:    bpf_for(i, 0, MAX), bpf_repeat(MAX), or no loop: one task is
 *          enough for one dispatch.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(endless_loop_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(endless_loop_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(endless_loop_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: while tasks arrive as fast as this takes them ... */
	while (scx_bpf_dsq_nr_queued(SHARED_DSQ) > 0)
		scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(endless_loop_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(endless_loop_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(endless_loop_ops,
	       .select_cpu	= (void *)endless_loop_select_cpu,
	       .enqueue		= (void *)endless_loop_enqueue,
	       .dispatch	= (void *)endless_loop_dispatch,
	       .init		= (void *)endless_loop_init,
	       .exit		= (void *)endless_loop_exit,
	       .timeout_ms	= 5000,
	       .name		= "endless_loop");
