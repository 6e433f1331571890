/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: each task that exits leaves a record in a list, to be read by
 *          somebody later. Nobody does.
 *
 * Result:  test-failed by `leak`: a slab cache (kmalloc-64, say) has an object
 *          more for each task that came and went. No map shows it.
 *
 * Cure:    a ring buffer, whose size has an end; or drop the oldest record
 *          when a new one comes: bpf_list_pop_front(), bpf_obj_drop().
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

struct record {
	u64 ended;
	s32 pid;
	struct bpf_list_node node;
};

#define private(name) SEC(".data." #name) __hidden __attribute__((aligned(8)))
private(A) struct bpf_spin_lock lock;
private(A) struct bpf_list_head ended __contains(record, node);

s32 BPF_STRUCT_OPS(node_leak_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(node_leak_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(node_leak_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

void BPF_STRUCT_OPS(node_leak_exit_task, struct task_struct *p,
		    struct scx_exit_task_args *args)
{
	struct record *record;

	/* Not when the scheduler itself goes. */
	if (!(p->flags & PF_EXITING))
		return;
	record = bpf_obj_new(typeof(*record));
	if (!record)
		return;
	record->ended = bpf_ktime_get_ns();
	record->pid = p->pid;
	bpf_spin_lock(&lock);
	/* BUG: and who takes it from there? */
	bpf_list_push_back(&ended, &record->node);
	bpf_spin_unlock(&lock);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(node_leak_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(node_leak_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(node_leak_ops,
	       .select_cpu	= (void *)node_leak_select_cpu,
	       .enqueue		= (void *)node_leak_enqueue,
	       .dispatch	= (void *)node_leak_dispatch,
	       .exit_task	= (void *)node_leak_exit_task,
	       .init		= (void *)node_leak_init,
	       .exit		= (void *)node_leak_exit,
	       .timeout_ms	= 5000,
	       .name		= "node_leak");
