/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: too much work in ops.dispatch(), now and then: it runs with the
 *          CPU's lock held and interrupts off.
 *
 * Result:  test-failed, by rt-dl: even a deadline task, which the scheduler has
 *          no say in, comes too late.
 *
 * Cure:    look at a few tasks, not at all of everything; keep what is known
 *          instead of counting it anew.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

static u64 score, next_look;

#define SHARED_DSQ	0
#define SLICE_NS	(20 * 1000 * 1000ULL)
#define LOOK_EVERY_NS	(250 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(slow_dispatch_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(slow_dispatch_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(slow_dispatch_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 now = bpf_ktime_get_ns();
	u32 i;

	/* BUG: tens of milliseconds in which this CPU hears nobody. */
	if (time_before(next_look, now)) {
		next_look = now + LOOK_EVERY_NS;
		bpf_for(i, 0, 300000)
			score += i ^ cpu;
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(slow_dispatch_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(slow_dispatch_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(slow_dispatch_ops,
	       .select_cpu	= (void *)slow_dispatch_select_cpu,
	       .enqueue	= (void *)slow_dispatch_enqueue,
	       .dispatch	= (void *)slow_dispatch_dispatch,
	       .init		= (void *)slow_dispatch_init,
	       .exit		= (void *)slow_dispatch_exit,
	       .timeout_ms	= 5000,
	       .name		= "slow_dispatch");
