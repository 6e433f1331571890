/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a DSQ is filled and never drained: ops.dispatch() forgot it.
 *
 * Result:  ejected, "NAME[PID] failed to run for 6.5s" (1026), once a task
 *          with a nice value above 0 has to queue. In the dump dsq_id is
 *          ours, 0x1, and the list only grows.
 *
 * Cure:    each DSQ needs a CPU that moves tasks from it. After adding a
 *          queue, search for its name in dispatch.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, BACKGROUND_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(unconsumed_dsq_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(unconsumed_dsq_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u32 dsq = p->static_prio > 120 ? BACKGROUND_DSQ : SHARED_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(unconsumed_dsq_dispatch, s32 cpu, struct task_struct *prev)
{
	/* BUG: and BACKGROUND_DSQ? */
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(unconsumed_dsq_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(BACKGROUND_DSQ, -1);
}

void BPF_STRUCT_OPS(unconsumed_dsq_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(unconsumed_dsq_ops,
	       .select_cpu	= (void *)unconsumed_dsq_select_cpu,
	       .enqueue		= (void *)unconsumed_dsq_enqueue,
	       .dispatch	= (void *)unconsumed_dsq_dispatch,
	       .init		= (void *)unconsumed_dsq_init,
	       .exit		= (void *)unconsumed_dsq_exit,
	       .timeout_ms	= 5000,
	       .name		= "unconsumed_dsq");
