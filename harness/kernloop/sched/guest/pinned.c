// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "pinned.h"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "place.h"
#include "suite.h"

/* Longer than a slice, so that it ends in the middle of the program. */
enum { STAY_NS = 40 * 1000 * 1000 };
enum { MAY_GOTO = BPF_JMP | 0xe0 /* BPF_JCOND, linux/bpf.h since 6.9 */ };

static int program = -1;

bool pinned_open(void)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ktime_get_ns },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 6, .src_reg = 0 },
		{ .code = MAY_GOTO, .off = 4 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ktime_get_ns },
		{ .code = BPF_ALU64 | BPF_SUB | BPF_X, .dst_reg = 0, .src_reg = 6 },
		{ .code = BPF_JMP | BPF_JGT | BPF_K, .dst_reg = 0, .imm = STAY_NS, .off = 1 },
		{ .code = BPF_JMP | BPF_JA, .off = -5 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SYSCALL,
		.prog_flags = BPF_F_SLEEPABLE,
		.insns = (uintptr_t)insns,
		.insn_cnt = sizeof(insns) / sizeof(insns[0]),
		.license = (uintptr_t)"GPL",
	};

	program = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	return program >= 0;
}

void pinned_close(void)
{
	if (program >= 0)
		close(program);
	program = -1;
}

void pinned_runner(struct worker *w)
{
	while (!pool->stop) {
		union bpf_attr attr = { .test.prog_fd = program };

		ran(w);
		if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
			w->failed = true;
		look(w);
		w->rounds++;
		rest(w, 2 * MS);
	}
}
