/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vtime: weighted fair sharing by virtual time.
 *
 * Each task has a clock, its virtual time, that runs while the task runs: slow
 * for a heavy task (low nice value), fast for a light one. The scheduler runs
 * the task whose clock is furthest behind. Over time all the clocks keep step,
 * so that CPU time is divided in proportion to the weights. A task of nice 0
 * has weight 100, nice 5 has 33, nice -5 has 305.
 *
 * Ops used
 *   select_cpu	 idle CPU found: go there at once, past the queues.
 *   runnable	 a task that slept: takes away most of the lag it built up.
 *   enqueue	 puts the task into a queue sorted by virtual time.
 *   dispatch	 runs the earliest task, which may be the previous one.
 *   running	 advances the queue's clock, starts the stop-watch.
 *   stopping	 charges the task for what it used.
 *   enable	 a task that joins starts at the present, not at 0.
 *   init_task	 allocates the task's storage.
 *
 * Four things that such schedulers get wrong
 *
 *   Sleepers. A task that slept for 10 s is 10 s behind the others, and would
 *   own its CPU for the next 10 s. So a waking task keeps at most one slice
 *   (LAG_NS) of that lag: it goes first, for a moment. This is done in
 *   ops.runnable(), because a task that finds an idle CPU skips ops.enqueue().
 *
 *   Pinned tasks. Let four tasks be pinned to CPU 0 and one alone on CPU 1.
 *   The lone one's clock runs four times faster. With one clock for all, a
 *   kworker that wakes up on CPU 0 "now" is seconds ahead of the four, waits
 *   until they catch up, which they never do, and the watchdog barks. So tasks
 *   that may run on one CPU only have a queue per CPU with a clock of its own,
 *   and a task that changes queues has its clock set anew. Tasks confined to
 *   a few CPUs have the same problem in the shared queue; there MAX_LAG_NS
 *   bounds the damage: whoever is further behind is moved up.
 *
 *   The lone pair. ops.dispatch() runs before the previous task is queued
 *   again. With two tasks, one is in the queue and the other is "previous":
 *   taking the head of the queue every time makes them alternate, 1:1, be
 *   their weights what they may. So dispatch compares the head with @prev.
 *
 *   The lone runner. A task that nobody disturbs is not stopped at the end of
 *   its slice, so ops.stopping() does not charge it. Charged for 10 s at once,
 *   when company comes, it would wait for 10 s. So dispatch charges @prev, too.
 *
 * Trade-offs
 *   + Fair, weighted, no starvation; cheap: two clocks, no search.
 *   - A waking task does not preempt: it waits until the running slice ends
 *     (SLICE_NS at most).
 *   - One lock for the shared queue.
 *   - A crowd of pinned tasks is served by its size, not by its weights,
 *     against the shared queue (inside each queue weights are exact).
 *   - Weights are clamped to what nice 10 to -7 have: a task that is due only
 *     every ten seconds, however fair that may be, is a stall to the watchdog.
 *
 * Try next
 *   - Give each LLC its shared queue and clock; steal when it is empty.
 *   - Kick the CPU (SCX_KICK_PREEMPT) whose task is furthest ahead when a task
 *     with much lag wakes up.
 *   - Set LAG_NS to 1 s and see what happens to the others.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64
#define SHARED_DSQ	MAX_CPUS	/* 0..MAX_CPUS-1: pinned to that CPU */
#define NR_DSQS		(MAX_CPUS + 1)

#define SLICE_NS	(10 * 1000 * 1000ULL)
#define SLICE_MIN_NS	(2 * 1000 * 1000ULL)
#define LAG_NS		SLICE_NS
#define MAX_LAG_NS	(100 * 1000 * 1000ULL)
#define WEIGHT_MIN	10
#define WEIGHT_MAX	500

/* The clock of each queue: the latest virtual time that began to run. */
static u64 clocks[NR_DSQS];

/* Whose turn it is, pinned or shared queue; see pinned_turn(). */
static u64 credit[MAX_CPUS];

struct task_ctx {
	u32 dsq;	/* the queue whose clock our virtual time belongs to */
	u64 charged;	/* sum_exec_runtime up to which we have paid */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

static struct task_ctx *task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, 0, 0);
}

static u64 *clock_of(u32 dsq)
{
	return MEMBER_VPTR(clocks, [dsq]);
}

static void advance(u32 dsq, u64 vtime)
{
	u64 *now = clock_of(dsq);

	/* Two CPUs may race here; the loser's update is late, never wrong. */
	if (now && time_before(*now, vtime))
		*now = vtime;
}

/*
 * Add to @p's virtual time what it used since the last time. Divide by the
 * weight: heavy tasks age slowly. The kernel's run time is exact where "slice
 * given - slice left" is not: a yield or a preemption sets the slice to 0.
 */
static void charge(struct task_struct *p, struct task_ctx *tctx)
{
	u64 used = p->se.sum_exec_runtime - tctx->charged;
	u64 weight = p->scx.weight;

	if (weight < WEIGHT_MIN)
		weight = WEIGHT_MIN;
	if (weight > WEIGHT_MAX)
		weight = WEIGHT_MAX;
	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime + used * 100 / weight);
	tctx->charged = p->se.sum_exec_runtime;
}

/*
 * The queue @p belongs to. Ask the mask, not task_cpu(): while an affinity
 * change is under way, a task is enqueued once more on a CPU it just lost.
 */
static u32 home_dsq(const struct task_struct *p)
{
	u32 cpu;

	if (p->nr_cpus_allowed != 1)
		return SHARED_DSQ;
	cpu = bpf_cpumask_first(p->cpus_ptr);
	return cpu < MAX_CPUS ? cpu : SHARED_DSQ;
}

/* Shorter turns when many wait: everybody should run a few times a second. */
static u64 slice_for(u32 dsq)
{
	u64 waiting = scx_bpf_dsq_nr_queued(dsq);

	if (dsq == SHARED_DSQ)
		waiting /= scx_bpf_nr_cpu_ids();
	waiting = SLICE_NS * 4 / (waiting + 1);
	if (waiting > SLICE_NS)
		return SLICE_NS;
	return waiting < SLICE_MIN_NS ? SLICE_MIN_NS : waiting;
}

s32 BPF_STRUCT_OPS(vtime_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(vtime_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = task_ctx(p);
	u64 *now;

	/* Also called when a property changes: only sleepers are meant. */
	if (!tctx || !(enq_flags & SCX_ENQ_WAKEUP))
		return;
	now = clock_of(tctx->dsq);
	if (now && time_before(p->scx.dsq_vtime, *now - LAG_NS))
		scx_bpf_task_set_dsq_vtime(p, *now - LAG_NS);
}

void BPF_STRUCT_OPS(vtime_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = task_ctx(p);
	u64 vtime = p->scx.dsq_vtime;
	u32 dsq = home_dsq(p);
	u64 *now = clock_of(dsq);
	s32 cpu;

	if (!tctx || !now) {	/* never: but a task must not be lost */
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}

	if (tctx->dsq != dsq) {
		tctx->dsq = dsq;
		vtime = *now;
	} else if (time_before(vtime, *now - MAX_LAG_NS)) {
		vtime = *now - MAX_LAG_NS;
	}

	scx_bpf_dsq_insert_vtime(p, dsq, slice_for(dsq), vtime, enq_flags);

	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * Two queues have work for @cpu and their clocks cannot be compared. Share the
 * turns by the number of tasks, the shared ones being divided by the number of
 * CPUs: add the pinned queue's part at each turn and let it go when the sum is
 * one turn (Bresenham's line). A pinned queue that was empty, as it is between
 * two wake-ups of a kworker, has a full credit and goes first.
 */
static bool pinned_turn(s32 cpu, u64 nr_pinned, u64 nr_shared)
{
	u64 *sum = MEMBER_VPTR(credit, [cpu]);
	u64 turn;

	if (!sum)
		return false;

	nr_pinned *= scx_bpf_nr_cpu_ids();
	turn = nr_pinned + nr_shared;
	if (nr_pinned == 0) {
		*sum = ~0ULL;
		return false;
	}
	if (*sum >= turn)
		*sum = turn;
	*sum += nr_pinned;
	if (nr_shared && *sum < turn)
		return false;
	*sum = *sum > turn ? *sum - turn : 0;
	return true;
}

/* Is @vtime earlier than that of all the tasks in @dsq? */
static bool earlier_than_head(u64 vtime, u32 dsq)
{
	struct task_struct *p;
	bool ret = true;

	bpf_for_each(scx_dsq, p, dsq, 0) {
		ret = time_before(vtime, p->scx.dsq_vtime);
		break;
	}
	return ret;
}

void BPF_STRUCT_OPS(vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 nr_pinned = 0, nr_shared = scx_bpf_dsq_nr_queued(SHARED_DSQ);
	struct task_ctx *tctx = NULL;
	u32 dsq;

	if (cpu < MAX_CPUS)
		nr_pinned = scx_bpf_dsq_nr_queued(cpu);

	/* @prev is in no queue now; it counts where it will be put. */
	if (prev && (prev->scx.flags & SCX_TASK_QUEUED))
		tctx = task_ctx(prev);
	if (tctx) {
		charge(prev, tctx);
		if (tctx->dsq == cpu)
			nr_pinned++;
		else
			nr_shared++;
	}

	dsq = pinned_turn(cpu, nr_pinned, nr_shared) ? cpu : SHARED_DSQ;

	/*
	 * Still the earliest: return empty-handed and the kernel keeps @prev
	 * running. Not if its affinity has changed: it must leave then.
	 */
	if (tctx && tctx->dsq == dsq && home_dsq(prev) == dsq &&
	    bpf_cpumask_test_cpu(cpu, prev->cpus_ptr) &&
	    earlier_than_head(prev->scx.dsq_vtime, dsq)) {
		scx_bpf_task_set_slice(prev, slice_for(dsq));
		advance(dsq, prev->scx.dsq_vtime);
		return;
	}

	if (scx_bpf_dsq_move_to_local(dsq, 0))
		return;
	if (dsq != SHARED_DSQ)
		dsq = SHARED_DSQ;
	else if (cpu < MAX_CPUS)
		dsq = cpu;
	if (scx_bpf_dsq_move_to_local(dsq, 0))
		return;

	/* Nothing that may run here: the kernel keeps @prev, if it can. */
	if (tctx)
		advance(tctx->dsq, prev->scx.dsq_vtime);
}

void BPF_STRUCT_OPS(vtime_running, struct task_struct *p)
{
	struct task_ctx *tctx = task_ctx(p);

	if (!tctx)
		return;
	tctx->charged = p->se.sum_exec_runtime;
	advance(tctx->dsq, p->scx.dsq_vtime);
}

void BPF_STRUCT_OPS(vtime_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *tctx = task_ctx(p);

	if (tctx)
		charge(p, tctx);
}

void BPF_STRUCT_OPS(vtime_enable, struct task_struct *p)
{
	struct task_ctx *tctx = task_ctx(p);
	u64 *now;

	if (!tctx)
		return;
	tctx->dsq = home_dsq(p);
	tctx->charged = p->se.sum_exec_runtime;
	now = clock_of(tctx->dsq);
	if (now)
		scx_bpf_task_set_dsq_vtime(p, *now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(vtime_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	if (!bpf_task_storage_get(&task_ctxs, p, 0,
				  BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -ENOMEM;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(vtime_init)
{
	s32 ret;
	u32 i;

	bpf_for(i, 0, NR_DSQS) {
		ret = scx_bpf_create_dsq(i, -1);
		if (ret)
			return ret;
	}
	return 0;
}

void BPF_STRUCT_OPS(vtime_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(vtime_ops,
	       .select_cpu	= (void *)vtime_select_cpu,
	       .runnable	= (void *)vtime_runnable,
	       .enqueue		= (void *)vtime_enqueue,
	       .dispatch	= (void *)vtime_dispatch,
	       .running		= (void *)vtime_running,
	       .stopping	= (void *)vtime_stopping,
	       .enable		= (void *)vtime_enable,
	       .init_task	= (void *)vtime_init_task,
	       .init		= (void *)vtime_init,
	       .exit		= (void *)vtime_exit,
	       .timeout_ms	= 5000,
	       .name		= "vtime");
