/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a map that holds one entry a task is too small.
 *
 * Result:  never starts, "ops.init_task() failed (-7) for NAME[PID]" (1024; 7
 *          is E2BIG): the existing tasks do not fit. Were there fewer of
 *          them, fork() would fail later on.
 *
 * Cure:    BPF_MAP_TYPE_TASK_STORAGE: grows with the tasks and is freed with
 *          them (vtime.bpf.c, boost.bpf.c).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* BUG: any machine has more than 16 tasks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, s32);
	__type(value, u64);
} started SEC(".maps");

s32 BPF_STRUCT_OPS(init_task_fail_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(init_task_fail_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(init_task_fail_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(init_task_fail_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	u64 now = bpf_ktime_get_ns();
	s32 pid = p->pid;

	return bpf_map_update_elem(&started, &pid, &now, BPF_ANY);
}

void BPF_STRUCT_OPS(init_task_fail_exit_task, struct task_struct *p,
		    struct scx_exit_task_args *args)
{
	s32 pid = p->pid;

	bpf_map_delete_elem(&started, &pid);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(init_task_fail_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(init_task_fail_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(init_task_fail_ops,
	       .select_cpu	= (void *)init_task_fail_select_cpu,
	       .enqueue		= (void *)init_task_fail_enqueue,
	       .dispatch	= (void *)init_task_fail_dispatch,
	       .init_task	= (void *)init_task_fail_init_task,
	       .exit_task	= (void *)init_task_fail_exit_task,
	       .init		= (void *)init_task_fail_init,
	       .exit		= (void *)init_task_fail_exit,
	       .timeout_ms	= 5000,
	       .name		= "init_task_fail");
