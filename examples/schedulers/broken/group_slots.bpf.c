/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: each cgroup gets a slot of a table, and none gives its own back.
 *
 * Result:  test-failed, by `cgroup-storm`: a cgroup cannot be made any more,
 *          after so many have come and gone as there are slots.
 *
 * Cure:    ops.cgroup_exit() frees what ops.cgroup_init() took; or cgroup
 *          storage, which goes with its cgroup (groups.bpf.c).
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)
#define MAX_GROUPS	256

/* The cgroup that a slot belongs to. */
static u64 owners[MAX_GROUPS];

void BPF_STRUCT_OPS(group_slots_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(group_slots_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(group_slots_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	u32 i;

	bpf_for(i, 0, MAX_GROUPS) {
		if (!__sync_val_compare_and_swap(&owners[i % MAX_GROUPS], 0,
						 cgrp->kn->id))
			return 0;
	}
	return -ENOSPC;
}

void BPF_STRUCT_OPS(group_slots_cgroup_exit, struct cgroup *cgrp)
{
	/* BUG: its slot stays taken. */
}

s32 BPF_STRUCT_OPS_SLEEPABLE(group_slots_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(group_slots_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(group_slots_ops,
	       .enqueue		= (void *)group_slots_enqueue,
	       .dispatch	= (void *)group_slots_dispatch,
	       .cgroup_init	= (void *)group_slots_cgroup_init,
	       .cgroup_exit	= (void *)group_slots_cgroup_exit,
	       .init		= (void *)group_slots_init,
	       .exit		= (void *)group_slots_exit,
	       .timeout_ms	= 5000,
	       .name		= "group_slots");
