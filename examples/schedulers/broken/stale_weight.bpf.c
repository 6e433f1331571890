/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a task remembers its cgroup's weight from the time when it joined
 *          the scheduler. cpu.weight changes, and tasks move.
 *
 * Result:  test-failed by `cgroup-weights`: groups of weights 100 and 300 get
 *          the same.
 *
 * Cure:    ask the group when the task is charged (groups.bpf.c).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define QUEUE		0
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define LAG_NS		(50 * 1000 * 1000ULL)	/* a sleeper keeps so much */
#define AHEAD_NS	(300 * 1000 * 1000ULL)	/* nobody waits for more */

struct group {
	u32 weight;
	u32 nr_runnable;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct group);
} groups SEC(".maps");

struct task_ctx {
	u64 weight;
	u64 charged;		/* run time that is paid for */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

static u64 now;			/* virtual time of who runs */

/* The group that @p is in at the moment; its storage lives as long as it. */
static struct group *group_of(struct task_struct *p)
{
	struct cgroup *cgrp = scx_bpf_task_cgroup(p);
	struct group *group;

	if (!cgrp)
		return NULL;
	group = bpf_cgrp_storage_get(&groups, cgrp, 0, 0);
	bpf_cgroup_release(cgrp);
	return group;
}

s32 BPF_STRUCT_OPS(stale_weight_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(stale_weight_runnable, struct task_struct *p, u64 enq_flags)
{
	struct group *group = group_of(p);

	if (group)
		__sync_fetch_and_add(&group->nr_runnable, 1);
}

void BPF_STRUCT_OPS(stale_weight_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct group *group = group_of(p);

	if (group)
		__sync_fetch_and_sub(&group->nr_runnable, 1);
}

void BPF_STRUCT_OPS(stale_weight_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;
	s32 cpu;

	/* Neither credit for a long sleep, nor a debt that takes seconds. */
	if (time_before(vtime, now - LAG_NS))
		vtime = now - LAG_NS;
	if (time_before(now + AHEAD_NS, vtime))
		vtime = now + AHEAD_NS;
	scx_bpf_dsq_insert_vtime(p, QUEUE, SLICE_NS, vtime, enq_flags);

	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(stale_weight_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(QUEUE, 0);
}

void BPF_STRUCT_OPS(stale_weight_running, struct task_struct *p)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);

	if (tctx)
		tctx->charged = p->se.sum_exec_runtime;
	if (time_before(now, p->scx.dsq_vtime))
		now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(stale_weight_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);
	struct group *group = group_of(p);
	u64 used, sharers;

	if (!tctx)
		return;
	used = p->se.sum_exec_runtime - tctx->charged;
	tctx->charged = p->se.sum_exec_runtime;
	sharers = group && group->nr_runnable ? group->nr_runnable : 1;
	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      used * 100 * sharers /
				      (tctx->weight ?: 100));
}

void BPF_STRUCT_OPS(stale_weight_enable, struct task_struct *p)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);
	struct group *group = group_of(p);

	/* BUG: this is what it is now. */
	if (tctx && group)
		tctx->weight = group->weight;
	scx_bpf_task_set_dsq_vtime(p, now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(stale_weight_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	if (!bpf_task_storage_get(&task_ctxs, p, 0,
				  BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -ENOMEM;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(stale_weight_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	struct group *group = bpf_cgrp_storage_get(&groups, cgrp, 0,
						   BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!group)
		return -ENOMEM;
	group->weight = args->weight;
	return 0;
}

void BPF_STRUCT_OPS(stale_weight_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct group *group = bpf_cgrp_storage_get(&groups, cgrp, 0, 0);

	if (group)
		group->weight = weight;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(stale_weight_init)
{
	return scx_bpf_create_dsq(QUEUE, -1);
}

void BPF_STRUCT_OPS(stale_weight_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(stale_weight_ops,
	       .select_cpu	  = (void *)stale_weight_select_cpu,
	       .runnable	  = (void *)stale_weight_runnable,
	       .quiescent	  = (void *)stale_weight_quiescent,
	       .enqueue		  = (void *)stale_weight_enqueue,
	       .dispatch	  = (void *)stale_weight_dispatch,
	       .running		  = (void *)stale_weight_running,
	       .stopping	  = (void *)stale_weight_stopping,
	       .enable		  = (void *)stale_weight_enable,
	       .init_task	  = (void *)stale_weight_init_task,
	       .cgroup_init	  = (void *)stale_weight_cgroup_init,
	       .cgroup_set_weight = (void *)stale_weight_cgroup_set_weight,
	       .init		  = (void *)stale_weight_init,
	       .exit		  = (void *)stale_weight_exit,
	       .timeout_ms	  = 5000,
	       .name		  = "stale_weight");
