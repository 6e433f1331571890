/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a queue for each cgroup, and a task remembers its queue. When it
 *          moves to another cgroup, it still goes to the old one's.
 *
 * Result:  ejected, "non-existent DSQ 0x..." (1024), by `cgroup-storm`: the old
 *          cgroup was removed, and its queue with it.
 *
 * Cure:    ops.cgroup_move() changes what the task remembers; or ask each time:
 *          scx_bpf_task_cgroup(p) (groups.bpf.c).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

struct task_ctx {
	u64 queue;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

/* The queues there are: a ring of cgroup ids. */
#define MAX_GROUPS	64

static u64 queues[MAX_GROUPS];
static u32 turns;

void BPF_STRUCT_OPS(group_gone_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = bpf_task_storage_get(&task_ctxs, p, 0, 0);
	s32 cpu;

	/* BUG: it was the queue of the group that the task was born in. */
	scx_bpf_dsq_insert(p, tctx ? tctx->queue : SHARED_DSQ, SLICE_NS,
			   enq_flags);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(group_gone_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 first = ++turns, i;

	if (turns % 2 && scx_bpf_dsq_move_to_local(SHARED_DSQ, 0))
		return;
	bpf_for(i, 0, MAX_GROUPS) {
		u64 queue = queues[(first + i) % MAX_GROUPS];

		/* An empty one may be gone by now. */
		if (queue && scx_bpf_dsq_nr_queued(queue) > 0 &&
		    scx_bpf_dsq_move_to_local(queue, 0))
			return;
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(group_gone_init_task, struct task_struct *p,
			     struct scx_init_task_args *args)
{
	struct task_ctx *tctx;

	tctx = bpf_task_storage_get(&task_ctxs, p, 0,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!tctx)
		return -ENOMEM;
	tctx->queue = args->cgroup->level ? args->cgroup->kn->id : SHARED_DSQ;
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(group_gone_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	u32 i;

	if (!cgrp->level)
		return 0;
	bpf_for(i, 0, MAX_GROUPS) {
		if (!__sync_val_compare_and_swap(&queues[i % MAX_GROUPS], 0,
						 cgrp->kn->id))
			return scx_bpf_create_dsq(cgrp->kn->id, -1);
	}
	return -ENOSPC;
}

void BPF_STRUCT_OPS(group_gone_cgroup_exit, struct cgroup *cgrp)
{
	u32 i;

	bpf_for(i, 0, MAX_GROUPS)
		__sync_val_compare_and_swap(&queues[i % MAX_GROUPS],
					    cgrp->kn->id, 0);
	scx_bpf_destroy_dsq(cgrp->kn->id);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(group_gone_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(group_gone_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(group_gone_ops,
	       .enqueue		= (void *)group_gone_enqueue,
	       .dispatch	= (void *)group_gone_dispatch,
	       .init_task	= (void *)group_gone_init_task,
	       .cgroup_init	= (void *)group_gone_cgroup_init,
	       .cgroup_exit	= (void *)group_gone_cgroup_exit,
	       .init		= (void *)group_gone_init,
	       .exit		= (void *)group_gone_exit,
	       .timeout_ms	= 5000,
	       .name		= "group_gone");
