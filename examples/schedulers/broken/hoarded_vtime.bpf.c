/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a task that slept keeps the virtual time it went to sleep with.
 *
 * Result:  test-failed, by starvation: tasks that come back after four seconds
 *          run alone until they have caught up, and who was there before waits.
 *          After a longer sleep it would be a stall (1026).
 *
 * Cure:    clamp in ops.enqueue() or ops.runnable(): at most a slice behind the
 *          queue's clock.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define MAX_CPUS	64
#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

static u64 vtime_now;

/* Of the task that runs there: the run time that it has paid for. */
static u64 paid[MAX_CPUS];

s32 BPF_STRUCT_OPS(hoarded_vtime_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(hoarded_vtime_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;

	/* BUG: however far behind vtime_now that is. */
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SLICE_NS, vtime, enq_flags);
	wake_idle_cpu(p);
}

static void charge(struct task_struct *p)
{
	u64 *since = MEMBER_VPTR(paid, [bpf_get_smp_processor_id()]);
	u64 total = p->se.sum_exec_runtime;

	if (!since)
		return;
	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      (total - *since) * 100 / p->scx.weight);
	*since = total;
}

/* Is @p, which is in no queue now, earlier than all that wait? */
static bool earliest(const struct task_struct *p)
{
	struct task_struct *head;
	bool ret = true;

	bpf_for_each(scx_dsq, head, SHARED_DSQ, 0) {
		ret = time_before(p->scx.dsq_vtime, head->scx.dsq_vtime);
		break;
	}
	return ret;
}

void BPF_STRUCT_OPS(hoarded_vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	if (prev && prev->scx.flags & SCX_TASK_QUEUED) {
		charge(prev);
		if (bpf_cpumask_test_cpu(cpu, prev->cpus_ptr) && earliest(prev)) {
			scx_bpf_task_set_slice(prev, SLICE_NS);
			return;
		}
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(hoarded_vtime_running, struct task_struct *p)
{
	u64 *since = MEMBER_VPTR(paid, [bpf_get_smp_processor_id()]);

	if (since)
		*since = p->se.sum_exec_runtime;
	if (time_before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(hoarded_vtime_stopping, struct task_struct *p, bool runnable)
{
	charge(p);
}

void BPF_STRUCT_OPS(hoarded_vtime_enable, struct task_struct *p)
{
	scx_bpf_task_set_dsq_vtime(p, vtime_now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(hoarded_vtime_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(hoarded_vtime_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(hoarded_vtime_ops,
	       .select_cpu	= (void *)hoarded_vtime_select_cpu,
	       .enqueue	= (void *)hoarded_vtime_enqueue,
	       .dispatch	= (void *)hoarded_vtime_dispatch,
	       .running	= (void *)hoarded_vtime_running,
	       .stopping	= (void *)hoarded_vtime_stopping,
	       .enable		= (void *)hoarded_vtime_enable,
	       .init		= (void *)hoarded_vtime_init,
	       .exit		= (void *)hoarded_vtime_exit,
	       .timeout_ms	= 5000,
	       .name		= "hoarded_vtime");
