/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.dispatch() inserts more tasks than dispatch_max_batch allows
 *          for one call.
 *
 * Result:  ejected, "dispatch buffer overflow" (1024), when three tasks or
 *          more arrive between two dispatches.
 *
 * Cure:    stop when scx_bpf_dispatch_nr_slots() is 0;
 *          scx_bpf_dsq_move_to_local() empties the buffer.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* Runnable tasks, by pid, in the order of arrival. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, s32);
} fifo SEC(".maps");

s32 BPF_STRUCT_OPS(dispatch_overflow_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(dispatch_overflow_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	s32 pid = p->pid;

	if (bpf_map_push_elem(&fifo, &pid, 0))
		scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(dispatch_overflow_dispatch, s32 cpu,
		    struct task_struct *prev)
{
	struct task_struct *p;
	s32 pid;
	u32 i;

	/* BUG: while (scx_bpf_dispatch_nr_slots()) */
	bpf_for(i, 0, 4096) {
		if (bpf_map_pop_elem(&fifo, &pid))
			break;
		p = bpf_task_from_pid(pid);
		if (!p)
			continue;
		scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, 0);
		bpf_task_release(p);
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(dispatch_overflow_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(dispatch_overflow_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(dispatch_overflow_ops,
	       .select_cpu	= (void *)dispatch_overflow_select_cpu,
	       .enqueue		= (void *)dispatch_overflow_enqueue,
	       .dispatch	= (void *)dispatch_overflow_dispatch,
	       .init		= (void *)dispatch_overflow_init,
	       .exit		= (void *)dispatch_overflow_exit,
	       .dispatch_max_batch = 2,
	       .timeout_ms	= 5000,
	       .name		= "dispatch_overflow");
