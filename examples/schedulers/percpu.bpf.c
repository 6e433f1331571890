/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * percpu: a round-robin queue for each CPU, with work stealing.
 *
 * A queue per CPU means no shared lock and warm caches. The price is balance:
 * one queue may be long while another is empty. Stealing pays that price:
 *
 *   - a CPU whose own queue is empty takes from any other;
 *   - every BALANCE_EVERY-th time a CPU also looks for the longest queue and
 *     takes one task from it if that is longer than its own by two or more.
 *
 * Only every few times, and not whenever the other queue is longer: a CPU that
 * always prefers somebody else's work never gets to its own, and under a storm
 * of forks that is a stall.
 *
 * Affinity is where such schedulers get ejected. Inserting a task straight
 * into a CPU's local DSQ (SCX_DSQ_LOCAL_ON | cpu) is an order, and an order to
 * a CPU outside p->cpus_ptr is an error: "target CPU 1 not allowed for ...".
 * The mask may change between the test and the insert, too. The queues used
 * here are our own DSQs instead, and scx_bpf_dsq_move_to_local() is a request:
 * it takes the first task that may run on the asking CPU and leaves the pinned
 * and migration-disabled ones where they are.
 *
 * Ops used
 *   select_cpu	idle CPU found: go there at once.
 *   enqueue	queue of the task's CPU, or of an allowed one.
 *   dispatch	own queue, then stealing.
 *
 * Trade-offs
 *   + Scales with the CPUs; a task mostly stays where its cache is.
 *   - Nice values mean nothing here; shares are equal only after balancing.
 *   - Stealing looks at each queue: a machine with 256 CPUs wants to search
 *     its own LLC first.
 *
 * Try next
 *   - BALANCE_EVERY 1: run the fork storm.
 *   - Steal only from the same LLC, and from others every tenth time.
 *   - Sort each queue by virtual time. Whose clock does a stolen task obey?
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64			/* DSQ ids are CPU numbers */
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define BALANCE_EVERY	4

static u32 turns[MAX_CPUS];

static u32 nr_queues(void)
{
	u32 nr = scx_bpf_nr_cpu_ids();

	return nr < MAX_CPUS ? nr : MAX_CPUS;
}

s32 BPF_STRUCT_OPS(percpu_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(percpu_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 queue = scx_bpf_task_cpu(p);
	s32 cpu;

	/*
	 * During sched_setaffinity() a task is enqueued once more on the CPU
	 * that it is about to leave. Nobody else may steal it from there if it
	 * is pinned, so put it where it is going.
	 */
	if (!bpf_cpumask_test_cpu(queue, p->cpus_ptr))
		queue = bpf_cpumask_any_distribute(p->cpus_ptr);
	if (queue >= nr_queues()) {	/* a CPU beyond our queues */
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}

	scx_bpf_dsq_insert(p, queue, SLICE_NS, enq_flags);

	/* Any idle CPU will do: if it is not the queue's own, it steals. */
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/* Take one task from the longest queue, if that is longer than @than. */
static bool steal_from_longest(s32 cpu, s32 than)
{
	s32 victim = -1;
	u32 i;

	bpf_for(i, 0, nr_queues()) {
		s32 nr = scx_bpf_dsq_nr_queued(i);

		if (i != cpu && nr > than) {
			than = nr;
			victim = i;
		}
	}
	return victim >= 0 && scx_bpf_dsq_move_to_local(victim, 0);
}

/*
 * The longest queue may hold only tasks that must not run here, so a CPU with
 * nothing to do asks all of them, beginning with its neighbour.
 */
static bool steal_from_any(s32 cpu)
{
	u32 nr = nr_queues(), i;

	bpf_for(i, 1, nr) {
		u32 victim = cpu + i;

		if (victim >= nr)
			victim -= nr;
		if (scx_bpf_dsq_move_to_local(victim, 0))
			return true;
	}
	return false;
}

void BPF_STRUCT_OPS(percpu_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 *turn = MEMBER_VPTR(turns, [cpu]);

	if (!turn) {
		steal_from_any(cpu);
		return;
	}

	/* @prev, if it still runs, is about to join our queue: count it. */
	if (++*turn % BALANCE_EVERY == 0) {
		s32 mine = scx_bpf_dsq_nr_queued(cpu);

		if (prev && (prev->scx.flags & SCX_TASK_QUEUED))
			mine++;
		if (steal_from_longest(cpu, mine + 1))
			return;
	}

	if (scx_bpf_dsq_move_to_local(cpu, 0))
		return;
	steal_from_any(cpu);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(percpu_init)
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

void BPF_STRUCT_OPS(percpu_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(percpu_ops,
	       .select_cpu	= (void *)percpu_select_cpu,
	       .enqueue		= (void *)percpu_enqueue,
	       .dispatch	= (void *)percpu_dispatch,
	       .init		= (void *)percpu_init,
	       .exit		= (void *)percpu_exit,
	       .timeout_ms	= 5000,
	       .name		= "percpu");
