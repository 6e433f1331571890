/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks with migration disabled: what user space can do to get there. */
#ifndef KERNLOOP_PINNED_H
#define KERNLOOP_PINNED_H

#include "workers.h"

/*
 * A task that runs a sleepable BPF program by bpf(BPF_PROG_RUN) has migration disabled and can be preempted
 * (bpf_prog_run_pin_on_cpu(), include/linux/filter.h): its mask may allow other CPUs, and it can run on this one only.
 * pinned_open() loads such a program, of some ten milliseconds; false where the kernel takes none.
 */
bool pinned_open(void);
void pinned_close(void);

/* A worker body: in that program most of the time. */
void pinned_runner(struct worker *w);

#endif
