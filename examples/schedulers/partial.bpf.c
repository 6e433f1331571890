/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * partial: a scheduler for those who ask for it, beside EEVDF for all others.
 *
 * With SCX_OPS_SWITCH_PARTIAL the kernel gives us the tasks of policy
 * SCHED_EXT and no other. A task asks with sched_setscheduler(0, 7, {0});
 * its children are SCHED_EXT, too. Kernel threads stay with EEVDF.
 *
 * That makes a good place to try something on one program, on a machine that
 * others use. And it has one catch: EEVDF's tasks come first. A CPU that has
 * one of them to run does not ask us, but for a small share that newer kernels
 * keep for us (the ext server, kernel/sched/ext; 6.12 has none).
 *
 * Ops used
 *   enqueue, dispatch	one queue, as in fifo.bpf.c.
 *   init_task		is called for every task, also for those that never ask:
 *			state that only ours need belongs into ops.enable.
 *   enable		a task joined us: it was forked, or it asked.
 *
 * Try next
 *   - Set p->scx.disallow in ops.init_task for who may not join: the kernel
 *     then answers EACCES.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define QUEUE		0
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u64 nr_joined;

s32 BPF_STRUCT_OPS(partial_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(partial_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	scx_bpf_dsq_insert(p, QUEUE, SLICE_NS, enq_flags);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(partial_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(QUEUE, 0);
}

void BPF_STRUCT_OPS(partial_enable, struct task_struct *p)
{
	__sync_fetch_and_add(&nr_joined, 1);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(partial_init)
{
	return scx_bpf_create_dsq(QUEUE, -1);
}

void BPF_STRUCT_OPS(partial_dump, struct scx_dump_ctx *dctx)
{
	scx_bpf_dump("%llu tasks have joined", nr_joined);
}

void BPF_STRUCT_OPS(partial_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(partial_ops,
	       .select_cpu	= (void *)partial_select_cpu,
	       .enqueue		= (void *)partial_enqueue,
	       .dispatch	= (void *)partial_dispatch,
	       .enable		= (void *)partial_enable,
	       .dump		= (void *)partial_dump,
	       .init		= (void *)partial_init,
	       .exit		= (void *)partial_exit,
	       .flags		= SCX_OPS_SWITCH_PARTIAL,
	       .timeout_ms	= 5000,
	       .name		= "partial");
