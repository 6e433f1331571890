/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: woken tasks are collected and served every 30 ms, and an idle CPU
 *          that looks in between goes back to sleep with nobody to wake it.
 *
 * Result:  ejected, "NAME[PID] failed to run for 5.2s" (1026), by wakeup: on
 *          an idle machine nothing else brings the CPU back. On a busy one the
 *          next dispatch hides it.
 *
 * Cure:    serve what is there; to wait for more on purpose takes a timer
 *          (bpf_timer) that kicks the CPU.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, WOKEN_DSQ };
#define PERIOD_NS	(30 * 1000 * 1000ULL)
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u64 next_turn;

s32 BPF_STRUCT_OPS(late_wakeup_select_cpu, struct task_struct *p,
		   s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

static void wake_idle_cpu(const struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(late_wakeup_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 dsq = enq_flags & SCX_ENQ_WAKEUP ? WOKEN_DSQ : SHARED_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(late_wakeup_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 now = scx_bpf_now();

	/* BUG: who comes back when it is time? */
	if (!time_before(now, next_turn)) {
		next_turn = now + PERIOD_NS;
		if (scx_bpf_dsq_move_to_local(WOKEN_DSQ, 0))
			return;
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(late_wakeup_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(WOKEN_DSQ, -1);
}

void BPF_STRUCT_OPS(late_wakeup_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(late_wakeup_ops,
	       .select_cpu	= (void *)late_wakeup_select_cpu,
	       .enqueue	= (void *)late_wakeup_enqueue,
	       .dispatch	= (void *)late_wakeup_dispatch,
	       .init		= (void *)late_wakeup_init,
	       .exit		= (void *)late_wakeup_exit,
	       .timeout_ms	= 5000,
	       .name		= "late_wakeup");
