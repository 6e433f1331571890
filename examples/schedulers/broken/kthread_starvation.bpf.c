/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: kernel threads wait until no user task wants to run.
 *
 * Result:  ejected under saturation (1026): a kthread ("kworker/..." or the
 *          like) failed to run, or, since the watchdog is itself a work item,
 *          "watchdog failed to check in".
 *
 * Cure:    kernel threads do the work of the user tasks that seem more
 *          important. Serve them first, or at least in turn; they sleep again
 *          soon.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { USER_DSQ, KTHREAD_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(kthread_starvation_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(kthread_starvation_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u32 dsq = p->flags & PF_KTHREAD ? KTHREAD_DSQ : USER_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(kthread_starvation_dispatch, s32 cpu,
		    struct task_struct *prev)
{
	/* BUG: the wrong way round. */
	if (!scx_bpf_dsq_move_to_local(USER_DSQ, 0))
		scx_bpf_dsq_move_to_local(KTHREAD_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(kthread_starvation_init)
{
	s32 ret = scx_bpf_create_dsq(USER_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(KTHREAD_DSQ, -1);
}

void BPF_STRUCT_OPS(kthread_starvation_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(kthread_starvation_ops,
	       .select_cpu	= (void *)kthread_starvation_select_cpu,
	       .enqueue		= (void *)kthread_starvation_enqueue,
	       .dispatch	= (void *)kthread_starvation_dispatch,
	       .init		= (void *)kthread_starvation_init,
	       .exit		= (void *)kthread_starvation_exit,
	       .timeout_ms	= 5000,
	       .name		= "kthread_starvation");
