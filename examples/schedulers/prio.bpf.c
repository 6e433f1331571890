/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * prio: priority bands by nice value, with ageing.
 *
 * Strict priority is the easiest policy to write and the easiest to get
 * ejected with: while anybody important runs, nobody else does, until the
 * watchdog finds a task that waited for timeout_ms (broken/greedy_priority).
 * The cure is ageing: a task gains importance while it waits.
 *
 * The textbook keeps a list per band and moves the old ones up now and then.
 * A queue sorted by one number does the same with no mover at all:
 *
 *	key = time of arrival + band * AGE_NS		(smallest key first)
 *
 * Of two tasks that arrive together, the one in the better band goes first.
 * A task of band b lets pass the tasks of band a < b that arrive within the
 * next (b - a) * AGE_NS, and no others: the bound on its wait is in the key.
 *
 * Ops used
 *   select_cpu	idle CPU found: go there at once.
 *   enqueue	sorts by the key; preempts a CPU that runs a worse band.
 *   dispatch	runs the smallest key that may run here.
 *   running	notes which band each CPU runs, and since when.
 *
 * Trade-offs
 *   + Important tasks have short waits, also against a crowd of spinners.
 *   + No starvation, by construction.
 *   - The shares are no promise: bands say who goes first, not how much.
 *     For shares see vtime.bpf.c.
 *   - Preemption costs cache and switches. MIN_RUN_NS bounds it, and makes
 *     sure that each pick gets something done: without it a band that wakes
 *     up often enough could push others off before they execute anything.
 *
 * Try next
 *   - AGE_NS 1 s: still no stall? And 1 ms?
 *   - Take MIN_RUN_NS away and run the waker/wakee pairs beside spinners.
 *   - Give real work a boost for what it waits for: see boost.bpf.c.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define PRIO_DSQ	0
#define MAX_CPUS	64
#define NR_BANDS	8			/* five nice values each */
#define AGE_NS		(50 * 1000 * 1000ULL)
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define MIN_RUN_NS	(1 * 1000 * 1000ULL)

struct cpu_ctx {
	u32 band;	/* of the task that runs, NR_BANDS when none of ours */
	u64 since;
};

static struct cpu_ctx cpu_ctxs[MAX_CPUS];

/* static_prio is 100..139 for nice -20..19: bands 0 (best) to 7. */
static u32 band_of(const struct task_struct *p)
{
	u32 band = (p->static_prio - 100) / 5;

	return band < NR_BANDS ? band : NR_BANDS - 1;
}

s32 BPF_STRUCT_OPS(prio_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(prio_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 now = scx_bpf_now();
	u32 band = band_of(p);
	struct cpu_ctx *cctx;
	s32 cpu;

	scx_bpf_dsq_insert_vtime(p, PRIO_DSQ, SLICE_NS, now + band * AGE_NS,
				 enq_flags);

	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0) {
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		return;
	}

	/*
	 * All busy. Only a wake-up may preempt: a task that has just used its
	 * slice has no claim. Its own CPU, if that runs a worse band, drops
	 * what it does and comes to the queue; since the key decides, another
	 * CPU may be faster, and that is fine.
	 */
	if (!(enq_flags & SCX_ENQ_WAKEUP))
		return;
	cpu = scx_bpf_task_cpu(p);
	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return;
	cctx = MEMBER_VPTR(cpu_ctxs, [cpu]);
	if (cctx && cctx->band < NR_BANDS && band < cctx->band &&
	    time_before(cctx->since + MIN_RUN_NS, now))
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
}

void BPF_STRUCT_OPS(prio_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(PRIO_DSQ, 0);
}

void BPF_STRUCT_OPS(prio_running, struct task_struct *p)
{
	struct cpu_ctx *cctx = MEMBER_VPTR(cpu_ctxs, [scx_bpf_task_cpu(p)]);

	if (cctx) {
		cctx->band = band_of(p);
		cctx->since = scx_bpf_now();
	}
}

void BPF_STRUCT_OPS(prio_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_ctx *cctx = MEMBER_VPTR(cpu_ctxs, [scx_bpf_task_cpu(p)]);

	if (cctx)
		cctx->band = NR_BANDS;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(prio_init)
{
	return scx_bpf_create_dsq(PRIO_DSQ, -1);
}

void BPF_STRUCT_OPS(prio_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(prio_ops,
	       .select_cpu	= (void *)prio_select_cpu,
	       .enqueue		= (void *)prio_enqueue,
	       .dispatch	= (void *)prio_dispatch,
	       .running		= (void *)prio_running,
	       .stopping	= (void *)prio_stopping,
	       .init		= (void *)prio_init,
	       .exit		= (void *)prio_exit,
	       .timeout_ms	= 5000,
	       .name		= "prio");
