/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: ops.exit_task() looks through a table of everything to forget one
 *          task that goes on without the scheduler.
 *
 * Result:  test-failed by `reload`: after the loader's end it takes seconds
 *          until the scheduler is disabled.
 *
 * Cure:    find a task's state by the task: BPF_MAP_TYPE_TASK_STORAGE.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

#define NR_SLOTS	(512 * 1024)
#define PF_EXITING	0x00000004	/* include/linux/sched.h */

static s32 owners[4096];

static int forget(u32 i, s32 *pid)
{
	if (owners[i % 4096] == *pid)
		owners[i % 4096] = 0;
	return 0;
}

s32 BPF_STRUCT_OPS(slow_exit_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(slow_exit_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(slow_exit_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(slow_exit_exit_task, struct task_struct *p,
		    struct scx_exit_task_args *args)
{
	s32 pid = p->pid;

	/* The slots of dead tasks are taken over by others. */
	if (p->flags & PF_EXITING)
		return;
	/* BUG: half a million steps for each task that is left. */
	bpf_loop(NR_SLOTS, forget, &pid, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(slow_exit_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(slow_exit_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(slow_exit_ops,
	       .select_cpu	= (void *)slow_exit_select_cpu,
	       .enqueue		= (void *)slow_exit_enqueue,
	       .dispatch	= (void *)slow_exit_dispatch,
	       .exit_task	= (void *)slow_exit_exit_task,
	       .init		= (void *)slow_exit_init,
	       .exit		= (void *)slow_exit_exit,
	       .timeout_ms	= 5000,
	       .name		= "slow_exit");
