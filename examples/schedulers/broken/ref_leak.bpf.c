/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: a reference that bpf_task_from_pid() took is not given back on one
 *          path.
 *
 * Result:  refused by the verifier: "Unreleased reference id=N alloc_insn=M";
 *          alloc_insn is the call that took it.
 *
 * Cure:    bpf_task_release() on each path out. The same goes for cgroups,
 *          cpumasks (scx_bpf_put_cpumask()) and kptrs.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* Runnable tasks, by pid, in the order of arrival. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, s32);
} fifo SEC(".maps");

s32 BPF_STRUCT_OPS(ref_leak_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(ref_leak_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = p->pid;

	if (bpf_map_push_elem(&fifo, &pid, 0))
		scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(ref_leak_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;
	s32 pid;

	if (!bpf_map_pop_elem(&fifo, &pid)) {
		p = bpf_task_from_pid(pid);
		/* BUG: bpf_task_release(p) is missing. */
		if (p)
			scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, 0);
	}
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(ref_leak_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(ref_leak_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(ref_leak_ops,
	       .select_cpu	= (void *)ref_leak_select_cpu,
	       .enqueue		= (void *)ref_leak_enqueue,
	       .dispatch	= (void *)ref_leak_dispatch,
	       .init		= (void *)ref_leak_init,
	       .exit		= (void *)ref_leak_exit,
	       .timeout_ms	= 5000,
	       .name		= "ref_leak");
