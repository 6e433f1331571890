/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: what is kept for a task is not removed when it goes.
 *
 * Result:  test-failed by `leak`: the map has an element more for each task
 *          that came and went. After 65536 of them no element can be added,
 *          ops.init_task() fails, and with it every fork() on the machine.
 *
 * Cure:    BPF_MAP_TYPE_TASK_STORAGE, which goes with its task (vtime.bpf.c);
 *          or bpf_map_delete_elem() in ops.exit_task().
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, s32);
	__type(value, u64);
} started SEC(".maps");

s32 BPF_STRUCT_OPS(map_leak_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(map_leak_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(map_leak_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(map_leak_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	s32 pid = p->pid;
	u64 now = bpf_ktime_get_ns();

	/* BUG: where is the ops.exit_task() that deletes it? */
	return bpf_map_update_elem(&started, &pid, &now, BPF_ANY);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(map_leak_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(map_leak_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(map_leak_ops,
	       .select_cpu	= (void *)map_leak_select_cpu,
	       .enqueue		= (void *)map_leak_enqueue,
	       .dispatch	= (void *)map_leak_dispatch,
	       .init_task	= (void *)map_leak_init_task,
	       .init		= (void *)map_leak_init,
	       .exit		= (void *)map_leak_exit,
	       .timeout_ms	= 5000,
	       .name		= "map_leak");
