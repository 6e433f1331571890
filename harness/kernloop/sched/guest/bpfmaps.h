/* SPDX-License-Identifier: Apache-2.0 */
/* The BPF maps that the kernel has, by bpf(2) alone: scxsuite has no libbpf. */
#ifndef KERNLOOP_BPFMAPS_H
#define KERNLOOP_BPFMAPS_H

#include <stdint.h>

enum { MAX_MAPS = 64 };

struct map_count {
	uint32_t id;
	char name[16];
	long elements;
};

/*
 * Counts what lies in each hash map; answers how many maps. Those that throw out old elements by themselves (LRU) are no
 * place to leak, arrays have all their elements always, and what lies in task storage goes with its task.
 */
int count_elements(struct map_count *counts);

#endif
