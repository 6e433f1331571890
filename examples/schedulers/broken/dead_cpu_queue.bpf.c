/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the queue of a CPU that went offline is left as it is. Having
 *          ops.cpu_offline() means: I know what to do when a CPU goes.
 *
 * Result:  ejected, "NAME[PID] failed to run for 6.5s" (1026), after a CPU was
 *          taken offline: nobody drains its queue, and new tasks are put there.
 *
 * Cure:    in ops.cpu_offline() mark the CPU, do not queue to it any more, and
 *          let others take what is left (percpu.bpf.c's CPUs steal). Or leave
 *          out both ops: the kernel then unloads the scheduler at each event,
 *          and its loader loads it again.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64			/* DSQ ids are CPU numbers */
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u32 turns;

static u32 nr_queues(void)
{
	u32 nr = scx_bpf_nr_cpu_ids();

	return nr < MAX_CPUS ? nr : MAX_CPUS;
}

void BPF_STRUCT_OPS(dead_cpu_queue_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u32 cpu = ++turns % nr_queues();

	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		cpu = bpf_cpumask_any_distribute(p->cpus_ptr);
	if (cpu >= nr_queues()) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, cpu, SLICE_NS, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(dead_cpu_queue_dispatch, s32 cpu, struct task_struct *prev)
{
	if (cpu < nr_queues())
		scx_bpf_dsq_move_to_local(cpu, 0);
}

/* BUG: to be told is not enough. */
void BPF_STRUCT_OPS(dead_cpu_queue_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(dead_cpu_queue_cpu_online, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(dead_cpu_queue_init)
{
	s32 ret;
	u32 i;

	bpf_for(i, 0, nr_queues()) {
		ret = scx_bpf_create_dsq(i, -1);
		if (ret)
			return ret;
	}
	return 0;
}

void BPF_STRUCT_OPS(dead_cpu_queue_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(dead_cpu_queue_ops,
	       .enqueue		= (void *)dead_cpu_queue_enqueue,
	       .dispatch	= (void *)dead_cpu_queue_dispatch,
	       .cpu_online	= (void *)dead_cpu_queue_cpu_online,
	       .cpu_offline	= (void *)dead_cpu_queue_cpu_offline,
	       .init		= (void *)dead_cpu_queue_init,
	       .exit		= (void *)dead_cpu_queue_exit,
	       .timeout_ms	= 5000,
	       .name		= "dead_cpu_queue");
