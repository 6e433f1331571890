/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistake: the pointer that bpf_map_lookup_elem() returns is used without a
 *          test for NULL. The index is always in range? The verifier cannot
 *          know.
 *
 * Result:  refused by the verifier: "R0 invalid mem access
 *          'map_value_or_null'".
 *
 * Cure:    if (!count) return; or a global array with MEMBER_VPTR(), which
 *          needs the same test.
 */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

#define SHARED_DSQ	0
#define SLICE_NS	(5 * 1000 * 1000ULL)

/* Enqueues by static priority, 100..139. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 140);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

s32 BPF_STRUCT_OPS(map_null_check_select_cpu, struct task_struct *p,
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

void BPF_STRUCT_OPS(map_null_check_enqueue, struct task_struct *p,
		    u64 enq_flags)
{
	u32 prio = p->static_prio;
	u64 *count = bpf_map_lookup_elem(&counts, &prio);

	/* BUG: if (count) */
	(*count)++;
	scx_bpf_dsq_insert(p, SHARED_DSQ, SLICE_NS, enq_flags);
	wake_idle_cpu(p);
}

void BPF_STRUCT_OPS(map_null_check_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ, 0);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(map_null_check_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}

void BPF_STRUCT_OPS(map_null_check_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(map_null_check_ops,
	       .select_cpu	= (void *)map_null_check_select_cpu,
	       .enqueue		= (void *)map_null_check_enqueue,
	       .dispatch	= (void *)map_null_check_dispatch,
	       .init		= (void *)map_null_check_init,
	       .exit		= (void *)map_null_check_exit,
	       .timeout_ms	= 5000,
	       .name		= "map_null_check");
