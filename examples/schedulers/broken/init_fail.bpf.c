/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.init() returns an error: it creates the same DSQ twice.
 *
 * Result:  never starts, "ops.init() failed (-17)" (1024; 17 is EEXIST).
 *          Attaching succeeds all the same: whoever only looks at that
 *          believes that the scheduler runs.
 *
 * Cure:    look at the errno. Number DSQs with an enum. Judge by ops.exit()
 *          and by /sys/kernel/sched_ext/state.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define OTHER_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(init_fail_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(init_fail_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(init_fail_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(init_fail_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	/* BUG: OTHER_DSQ is the same number. */
	return ret ?: scx_bpf_create_dsq(OTHER_DSQ, -1);
}

void BPF_STRUCT_OPS(init_fail_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(init_fail_ops,
	       .select_cpu	= (void *)init_fail_select_cpu,
	       .enqueue		= (void *)init_fail_enqueue,
	       .dispatch	= (void *)init_fail_dispatch,
	       .init		= (void *)init_fail_init,
	       .exit		= (void *)init_fail_exit,
	       .timeout_ms	= 5000,
	       .name		= "init_fail");
