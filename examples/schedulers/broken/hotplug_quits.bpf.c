/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the scheduler gives up when a CPU goes, and asks nobody to load it
 *          again: its exit code has no SCX_ECODE_ACT_RESTART.
 *
 * Result:  test-failed by `hotplug`: the kernel has unloaded it as it asked
 *          (65), the loader sees an end like any other, and the machine goes
 *          on without it.
 *
 * Cure:    scx_bpf_exit(SCX_ECODE_ACT_RESTART | SCX_ECODE_RSN_HOTPLUG, ...), or
 *          leave out ops.cpu_offline(): the kernel then does just that. A
 *          loader of your own tests UEI_ECODE_RESTART().
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

s32 BPF_STRUCT_OPS(hotplug_quits_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(hotplug_quits_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(hotplug_quits_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

/* BUG: 0 asks for nothing. */
void BPF_STRUCT_OPS(hotplug_quits_cpu_offline, s32 cpu)
{
	scx_bpf_exit(0, "CPU %d has gone", cpu);
}

void BPF_STRUCT_OPS(hotplug_quits_cpu_online, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(hotplug_quits_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(hotplug_quits_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(hotplug_quits_ops,
	       .select_cpu	= (void *)hotplug_quits_select_cpu,
	       .enqueue		= (void *)hotplug_quits_enqueue,
	       .dispatch	= (void *)hotplug_quits_dispatch,
	       .cpu_online	= (void *)hotplug_quits_cpu_online,
	       .cpu_offline	= (void *)hotplug_quits_cpu_offline,
	       .init		= (void *)hotplug_quits_init,
	       .exit		= (void *)hotplug_quits_exit,
	       .timeout_ms	= 5000,
	       .name		= "hotplug_quits");
