/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: kernel threads are served once in three seconds while others want
 *          the CPU.
 *
 * Result:  test-failed, by kthreads: whoever waits for work of theirs (a read,
 *          an RCU grace period, a terminal) waits for seconds. The watchdog, at
 *          five, says nothing.
 *
 * Cure:    kernel threads first: straight to SCX_DSQ_LOCAL, or a short bounded
 *          wait.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { SHARED_DSQ, KTHREAD_DSQ };
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define PAUSE_NS	(3000 * 1000 * 1000ULL)
#define PF_KTHREAD	0x00200000

static u64 kthreads_next;

static void wake_idle_cpu(const struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(slow_kthreads_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 dsq = p->flags & PF_KTHREAD ? KTHREAD_DSQ : SHARED_DSQ;

	scx_bpf_dsq_insert(p, dsq, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(slow_kthreads_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 now = scx_bpf_now();

	/* BUG: who waits for them is a task as well. */
	if (time_before(kthreads_next, now)) {
		if (!scx_bpf_dsq_move_to_local(KTHREAD_DSQ, 0))
			kthreads_next = now + PAUSE_NS;
		else
			return;
	}
	if (!scx_bpf_dsq_move_to_local(SHARED_DSQ, 0))
		scx_bpf_dsq_move_to_local(KTHREAD_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(slow_kthreads_init)
{
	s32 ret = scx_bpf_create_dsq(SHARED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(KTHREAD_DSQ, -1);
}

void BPF_STRUCT_OPS(slow_kthreads_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(slow_kthreads_ops,
	       .enqueue	= (void *)slow_kthreads_enqueue,
	       .dispatch	= (void *)slow_kthreads_dispatch,
	       .init		= (void *)slow_kthreads_init,
	       .exit		= (void *)slow_kthreads_exit,
	       .timeout_ms	= 5000,
	       .name		= "slow_kthreads");
