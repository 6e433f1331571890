/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.disable() drops what ops.init_task() made, and ops.enable() does
 *          not make it again.
 *
 * Result:  ejected, "flip_forgets[PID] failed to run for 6.5s" (1026), by policy-flips:
 *          a task that was SCHED_FIFO for a while comes back (disable, then
 *          enable, without init_task) and is not known.
 *
 * Cure:    what lives as long as the task is made in init_task and freed in
 *          exit_task; enable and disable only begin and end a stay.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} nr_queued SEC(".maps");

s32 BPF_STRUCT_OPS(flip_forgets_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(flip_forgets_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 *count = bpf_task_storage_get(&nr_queued, p, 0, 0);

	/* BUG: a task must be put somewhere, known or not. */
	if (!count)
		return;
	(*count)++;
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(flip_forgets_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(flip_forgets_disable, struct task_struct *p)
{
	bpf_task_storage_delete(&nr_queued, p);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(flip_forgets_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	if (!bpf_task_storage_get(&nr_queued, p, 0,
				  BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -ENOMEM;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(flip_forgets_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(flip_forgets_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(flip_forgets_ops,
	       .select_cpu	= (void *)flip_forgets_select_cpu,
	       .enqueue	= (void *)flip_forgets_enqueue,
	       .dispatch	= (void *)flip_forgets_dispatch,
	       .disable	= (void *)flip_forgets_disable,
	       .init_task	= (void *)flip_forgets_init_task,
	       .init		= (void *)flip_forgets_init,
	       .exit		= (void *)flip_forgets_exit,
	       .timeout_ms	= 5000,
	       .name		= "flip_forgets");
