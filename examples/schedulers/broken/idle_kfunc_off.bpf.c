/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.update_idle is implemented, which turns the kernel's own idle
 *          tracking off, and scx_bpf_select_cpu_dfl(), which needs it, is
 *          still called.
 *
 * Result:  ejected at the first wake-up, "built-in idle tracking is disabled"
 *          (1024).
 *
 * Cure:    .flags = SCX_OPS_KEEP_BUILTIN_IDLE, or do without all the idle
 *          kfuncs (select_cpu_dfl, pick_idle_cpu, test_and_clear_cpu_idle,
 *          ...).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* How often a CPU went idle. */
u64 nr_idles;

s32 BPF_STRUCT_OPS(idle_kfunc_off_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(idle_kfunc_off_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	scx_bpf_kick_cpu(scx_bpf_task_cpu(p), SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(idle_kfunc_off_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

/* BUG: .flags lacks SCX_OPS_KEEP_BUILTIN_IDLE. */
void BPF_STRUCT_OPS(idle_kfunc_off_update_idle, s32 cpu, bool idle)
{
	if (idle)
		__sync_fetch_and_add(&nr_idles, 1);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(idle_kfunc_off_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(idle_kfunc_off_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(idle_kfunc_off_ops,
	       .select_cpu	= (void *)idle_kfunc_off_select_cpu,
	       .enqueue		= (void *)idle_kfunc_off_enqueue,
	       .dispatch	= (void *)idle_kfunc_off_dispatch,
	       .update_idle	= (void *)idle_kfunc_off_update_idle,
	       .init		= (void *)idle_kfunc_off_init,
	       .exit		= (void *)idle_kfunc_off_exit,
	       .timeout_ms	= 5000,
	       .name		= "idle_kfunc_off");
