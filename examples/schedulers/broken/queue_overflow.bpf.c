/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the return value of bpf_map_push_elem() is ignored: when the queue
 *          is full, the task is lost.
 *
 * Result:  ejected (1026), "NAME[PID] failed to run for 6.5s", or, if the
 *          lost task is the kworker that runs the watchdog, "watchdog failed
 *          to check in for 5.0s". A quiet machine never notices: it takes
 *          more than four waiting tasks.
 *
 * Cure:    check it, and have somewhere else to go (SCX_DSQ_GLOBAL will do).
 *          Size queues for the worst day.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* Runnable tasks, by pid, in the order of arrival. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, s32);
} fifo SEC(".maps");

s32 BPF_STRUCT_OPS(queue_overflow_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(queue_overflow_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	s32 pid = p->pid;

	/* BUG: -E2BIG when four tasks wait already. */
	bpf_map_push_elem(&fifo, &pid, 0);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(queue_overflow_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;
	s32 pid;

	if (!bpf_map_pop_elem(&fifo, &pid)) {
		p = bpf_task_from_pid(pid);
		if (p) {
			scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, 0);
			bpf_task_release(p);
		}
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(queue_overflow_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(queue_overflow_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(queue_overflow_ops,
	       .select_cpu	= (void *)queue_overflow_select_cpu,
	       .enqueue		= (void *)queue_overflow_enqueue,
	       .dispatch	= (void *)queue_overflow_dispatch,
	       .init		= (void *)queue_overflow_init,
	       .exit		= (void *)queue_overflow_exit,
	       .timeout_ms	= 5000,
	       .name		= "queue_overflow");
