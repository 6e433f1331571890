/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * boost: tasks that run briefly and sleep often go first.
 *
 * Nobody told the scheduler which tasks are interactive; it watches. Task
 * storage keeps, for each task, how long its recent bursts were: the CPU time
 * between waking up and going to sleep again. An editor's bursts last
 * microseconds, a compiler never sleeps. Short bursts earn the boost:
 *
 *   - they wait in a queue of their own, which is served first;
 *   - they may preempt a CPU that runs one of the others.
 *
 * A privilege needs a limit, or it becomes broken/greedy_priority:
 *
 *   - a task that computes longer than BURST_NS loses the boost at once, and
 *     earns it back only by sleeping;
 *   - after MAX_BOOSTS boosted picks in a row, a CPU serves the others once;
 *   - a task that was just picked is safe from preemption for MIN_RUN_NS.
 *
 * Ops used
 *   init_task	allocates the task's storage (the only place that may sleep;
 *		the kernel frees it with the task).
 *   enqueue	chooses the queue; wakes or preempts a CPU.
 *   dispatch	boosted first, with the limit above.
 *   running	starts the stop-watch.
 *   stopping	adds to the burst; when the task goes to sleep (!runnable),
 *		folds the burst into the average.
 *
 * Trade-offs
 *   + Wake-ups take microseconds where fifo and vtime take a slice.
 *   - Nice values mean nothing here.
 *   - Easy to fool: a thief that sleeps for 1 us before each BURST_NS is up
 *     runs at the front for ever. The limits bound the damage.
 *
 * Try next
 *   - Sort the slow queue by virtual time, as in vtime.bpf.c.
 *   - Boost also the waker of a boosted task (SCX_WAKE_SYNC in select_cpu).
 *   - Set MAX_BOOSTS to 1000000 and start more short sleepers than CPUs.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

enum { BOOSTED_DSQ, SLOW_DSQ };

#define MAX_CPUS	64
#define MAX_BOOSTS	8
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define BURST_NS	(1 * 1000 * 1000ULL)
#define MIN_RUN_NS	(500 * 1000ULL)

struct task_ctx {
	u64 charged;	/* sum_exec_runtime when the burst was last added to */
	u64 burst;	/* CPU time since the last wake-up */
	u64 average;	/* of the bursts so far, recent ones count more */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

struct cpu_ctx {
	u32 boosts;	/* boosted picks in a row */
	bool slow;	/* runs a task that may be preempted */
	u64 since;
};

static struct cpu_ctx cpu_ctxs[MAX_CPUS];

static struct task_ctx *task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, 0, 0);
}

static bool is_boosted(const struct task_ctx *tctx)
{
	return tctx && tctx->average < BURST_NS && tctx->burst < BURST_NS;
}

s32 BPF_STRUCT_OPS(boost_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(boost_enqueue, struct task_struct *p, u64 enq_flags)
{
	bool boosted = is_boosted(task_ctx(p));
	struct cpu_ctx *cctx;
	s32 cpu;

	scx_bpf_dsq_insert(p, boosted ? BOOSTED_DSQ : SLOW_DSQ,
			   boosted ? BURST_NS : SLICE_NS, enq_flags);

	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0) {
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		return;
	}

	if (!boosted || !(enq_flags & SCX_ENQ_WAKEUP))
		return;
	cpu = scx_bpf_task_cpu(p);
	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return;
	cctx = MEMBER_VPTR(cpu_ctxs, [cpu]);
	if (cctx && cctx->slow &&
	    time_before(cctx->since + MIN_RUN_NS, scx_bpf_now()))
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
}

void BPF_STRUCT_OPS(boost_dispatch, s32 cpu, struct task_struct *prev)
{
	struct cpu_ctx *cctx = MEMBER_VPTR(cpu_ctxs, [cpu]);

	if (cctx && cctx->boosts >= MAX_BOOSTS) {
		cctx->boosts = 0;
		if (scx_bpf_dsq_move_to_local(SLOW_DSQ, 0))
			return;
	}

	if (scx_bpf_dsq_move_to_local(BOOSTED_DSQ, 0)) {
		if (cctx)
			cctx->boosts++;
		return;
	}

	if (cctx)
		cctx->boosts = 0;
	scx_bpf_dsq_move_to_local(SLOW_DSQ, 0);
}

void BPF_STRUCT_OPS(boost_running, struct task_struct *p)
{
	struct cpu_ctx *cctx = MEMBER_VPTR(cpu_ctxs, [scx_bpf_task_cpu(p)]);
	struct task_ctx *tctx = task_ctx(p);

	if (tctx)
		tctx->charged = p->se.sum_exec_runtime;
	if (cctx) {
		cctx->slow = !is_boosted(tctx);
		cctx->since = scx_bpf_now();
	}
}

void BPF_STRUCT_OPS(boost_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_ctx *cctx = MEMBER_VPTR(cpu_ctxs, [scx_bpf_task_cpu(p)]);
	struct task_ctx *tctx = task_ctx(p);

	if (cctx)
		cctx->slow = false;
	if (!tctx)
		return;

	tctx->burst += p->se.sum_exec_runtime - tctx->charged;
	tctx->charged = p->se.sum_exec_runtime;
	if (!runnable) {
		tctx->average = (tctx->average * 3 + tctx->burst) / 4;
		tctx->burst = 0;
	}
}

s32 BPF_STRUCT_OPS_SLEEPABLE(boost_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	struct task_ctx *tctx;

	tctx = bpf_task_storage_get(&task_ctxs, p, 0,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!tctx)
		return -ENOMEM;

	/* Unknown: neither trusted nor distrusted. A few naps decide. */
	tctx->average = BURST_NS;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(boost_init)
{
	s32 ret = scx_bpf_create_dsq(BOOSTED_DSQ, -1);

	return ret ?: scx_bpf_create_dsq(SLOW_DSQ, -1);
}

void BPF_STRUCT_OPS(boost_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(boost_ops,
	       .select_cpu	= (void *)boost_select_cpu,
	       .enqueue		= (void *)boost_enqueue,
	       .dispatch	= (void *)boost_dispatch,
	       .running		= (void *)boost_running,
	       .stopping	= (void *)boost_stopping,
	       .init_task	= (void *)boost_init_task,
	       .init		= (void *)boost_init,
	       .exit		= (void *)boost_exit,
	       .timeout_ms	= 5000,
	       .name		= "boost");
