/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fifo: one queue for the whole machine, first come, first served.
 *
 * The smallest scheduler that is still complete: start reading here.
 *
 * A task's way through sched_ext:
 *
 *	wakes up -> ops.select_cpu -> ops.enqueue -> a DSQ -> ops.dispatch
 *		 -> the CPU's local DSQ -> runs -> slice used up -> ops.enqueue
 *
 * A DSQ (dispatch queue) holds runnable tasks. Each CPU has a local one, the
 * only one it runs tasks from; there is a built-in global one; a scheduler may
 * create more. Two promises keep a scheduler loaded:
 *
 *   1. Each task given to ops.enqueue() reaches exactly one DSQ, sooner or
 *	later.
 *   2. Each DSQ of ours is drained by some CPU that its tasks may run on.
 *
 * Break one and a task waits for ever: after timeout_ms the kernel's watchdog
 * ejects the scheduler, "runnable task stall".
 *
 * Ops used
 *   enqueue	puts the task at the tail of the one queue.
 *   dispatch	moves the head of that queue to the CPU that asks.
 *   init, exit	create the queue; record why we were unloaded.
 *
 * Ops left out, so the kernel's defaults hold
 *   select_cpu	looks for an idle CPU and, if it finds one, puts the task
 *		straight into that CPU's local DSQ. ops.enqueue() is then not
 *		called at all.
 *
 * Trade-offs
 *   + Nobody starves: a task waits for those ahead of it, never longer.
 *   + No CPU idles while a task it may run is queued.
 *   - nice values mean nothing here.
 *   - A task that wakes up for 50 us waits behind all the spinners.
 *   - One lock for all the CPUs: fine for 8 of them, bad for 80.
 *
 * Try next
 *   - Raise SLICE_NS to 100 ms and watch what wake-ups cost.
 *   - Use SCX_DSQ_GLOBAL instead of FIFO_DSQ: init and dispatch can go.
 *   - Honour nice values: vtime.bpf.c. Drop the shared lock: percpu.bpf.c.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define FIFO_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

void BPF_STRUCT_OPS(fifo_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	scx_bpf_dsq_insert(p, FIFO_DSQ, SLICE_NS, enq_flags);

	/*
	 * The queue has no CPU of its own, so nobody may be looking at it. If
	 * a CPU that may run @p sleeps, wake it: its dispatch finds the task.
	 * A CPU that is merely busy comes by when its slice ends.
	 */
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(fifo_dispatch, s32 cpu, struct task_struct *prev)
{
	/*
	 * Takes the first task that @cpu may run: the kernel skips those that
	 * are pinned elsewhere. If nothing is found, @prev goes on running, if
	 * it still wants to, or else the CPU goes idle.
	 */
	scx_bpf_dsq_move_to_local(FIFO_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(fifo_init)
{
	return scx_bpf_create_dsq(FIFO_DSQ, -1);
}

void BPF_STRUCT_OPS(fifo_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(fifo_ops,
	       .enqueue		= (void *)fifo_enqueue,
	       .dispatch	= (void *)fifo_dispatch,
	       .init		= (void *)fifo_init,
	       .exit		= (void *)fifo_exit,
	       .timeout_ms	= 5000,
	       .name		= "fifo");
