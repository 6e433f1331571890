/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * groups: CPU time by cgroup. Groups share by cpu.weight, tasks of one group
 * share equally.
 *
 * Two levels need no two queues. A group of weight 300 with four runnable
 * tasks gives each of them a weight of 75: that is all a queue sorted by
 * virtual time has to know. The price is that the number of a group's runnable
 * tasks has to be right, always.
 *
 * Ops used
 *   cgroup_init	 a new group, or one that was there at the load.
 *   cgroup_set_weight	 somebody wrote to cpu.weight.
 *   runnable, quiescent count the group's runnable tasks. A task that moves to
 *			 another group is quiescent in the old one first, then
 *			 runnable in the new one: no ops.cgroup_move needed,
 *			 since nothing here remembers a task's group.
 *   enqueue		 into the one queue, by virtual time.
 *   stopping		 charges the task for what it used.
 *   cpu_online, cpu_offline  that they are there keeps the scheduler loaded
 *			 when a CPU comes or goes; the queue is nobody's CPU's,
 *			 so there is nothing to do.
 *
 * Where such schedulers fail
 *   - A task's group is kept in its task_ctx, and the task moves.
 *   - A queue per group: who runs the tasks that are in it when the group is
 *     removed? It must be empty then; ops.cgroup_move has to see to that.
 *   - The weight is read once. It changes while tasks run.
 *   - A kernel thread in the root group waits behind a hundred groups.
 *
 * Trade-offs
 *   + Exact shares with little code.
 *   - One lock for the queue; groups inside groups count as if beside them;
 *     nice values mean nothing.
 *
 * Try next
 *   - Multiply the weights on the way up to the root (scx_flatcg does).
 *   - ops.cgroup_set_bandwidth: cpu.max, with a timer.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define QUEUE		0
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define WEIGHT_MIN	25			/* less is a stall to the watchdog */
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

/* In the root group each task stands for itself. */
static bool at_root(struct task_struct *p)
{
	struct cgroup *cgrp = scx_bpf_task_cgroup(p);
	bool root;

	if (!cgrp)
		return true;
	root = cgrp->level == 0;
	bpf_cgroup_release(cgrp);
	return root;
}

s32 BPF_STRUCT_OPS(groups_select_cpu, struct task_struct *p, s32 prev_cpu,
		   u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(groups_runnable, struct task_struct *p, u64 enq_flags)
{
	struct group *group = group_of(p);

	if (group)
		__sync_fetch_and_add(&group->nr_runnable, 1);
}

void BPF_STRUCT_OPS(groups_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct group *group = group_of(p);

	if (group)
		__sync_fetch_and_sub(&group->nr_runnable, 1);
}

void BPF_STRUCT_OPS(groups_enqueue, struct task_struct *p, u64 enq_flags)
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

void BPF_STRUCT_OPS(groups_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(QUEUE, 0);
}

void BPF_STRUCT_OPS(groups_running, struct task_struct *p)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);

	if (tctx)
		tctx->charged = p->se.sum_exec_runtime;
	if (time_before(now, p->scx.dsq_vtime))
		now = p->scx.dsq_vtime;
}

void BPF_STRUCT_OPS(groups_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);
	struct group *group = group_of(p);
	u64 used, weight = 100, sharers = 1;

	if (!tctx)
		return;
	used = p->se.sum_exec_runtime - tctx->charged;
	tctx->charged = p->se.sum_exec_runtime;
	if (group && !at_root(p)) {
		weight = group->weight > WEIGHT_MIN ? group->weight : WEIGHT_MIN;
		sharers = group->nr_runnable ?: 1;
	}
	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime +
				      used * 100 * sharers / weight);
}

void BPF_STRUCT_OPS(groups_enable, struct task_struct *p)
{
	scx_bpf_task_set_dsq_vtime(p, now);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(groups_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	if (!bpf_task_storage_get(&task_ctxs, p, 0,
				  BPF_LOCAL_STORAGE_GET_F_CREATE))
		return -ENOMEM;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(groups_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	struct group *group = bpf_cgrp_storage_get(&groups, cgrp, 0,
						   BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!group)
		return -ENOMEM;
	group->weight = args->weight;
	return 0;
}

void BPF_STRUCT_OPS(groups_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct group *group = bpf_cgrp_storage_get(&groups, cgrp, 0, 0);

	if (group)
		group->weight = weight;
}

void BPF_STRUCT_OPS(groups_cpu_online, s32 cpu)
{
}

void BPF_STRUCT_OPS(groups_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(groups_init)
{
	return scx_bpf_create_dsq(QUEUE, -1);
}

void BPF_STRUCT_OPS(groups_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(groups_ops,
	       .select_cpu	  = (void *)groups_select_cpu,
	       .runnable	  = (void *)groups_runnable,
	       .quiescent	  = (void *)groups_quiescent,
	       .enqueue		  = (void *)groups_enqueue,
	       .dispatch	  = (void *)groups_dispatch,
	       .running		  = (void *)groups_running,
	       .stopping	  = (void *)groups_stopping,
	       .enable		  = (void *)groups_enable,
	       .init_task	  = (void *)groups_init_task,
	       .cgroup_init	  = (void *)groups_cgroup_init,
	       .cgroup_set_weight = (void *)groups_cgroup_set_weight,
	       .cpu_online	  = (void *)groups_cpu_online,
	       .cpu_offline	  = (void *)groups_cpu_offline,
	       .init		  = (void *)groups_init,
	       .exit		  = (void *)groups_exit,
	       .timeout_ms	  = 5000,
	       .name		  = "groups");
