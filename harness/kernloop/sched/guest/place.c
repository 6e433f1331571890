// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "place.h"

#include <sched.h>
#include <stdio.h>

#include "suite.h"

void mask_begin(struct worker *w, uint64_t mask)
{
	w->mask_seq++;
	w->mask = mask;
}

void mask_end(struct worker *w)
{
	w->mask_ns = clock_ns();
	w->mask_seq++;
}

void look(struct worker *w)
{
	unsigned int seq = w->mask_seq;
	uint64_t mask = w->mask, since = w->mask_ns, t;
	int cpu = sched_getcpu();

	t = clock_ns();
	if (seq % 2 || seq != w->mask_seq || !mask || mask >> cpu & 1)
		return;
	if (t - since > w->outside_ns)
		w->outside_ns = t - since;
}

void runner(struct worker *w)
{
	while (!pool->stop) {
		burn(w, 3 * MS);
		look(w);
		if (++w->rounds % 4 == 0)
			rest(w, 3 * MS);
	}
}

void sleeper(struct worker *w)
{
	while (!pool->stop) {
		rest(w, 5 * MS);
		look(w);
		burn(w, 0.5 * MS);
		look(w);
		w->rounds++;
	}
}

void mask_text(uint64_t mask, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = 0;
	for (int cpu = 0; cpu < MAX_CPUS && used < size; cpu++)
		if (mask >> cpu & 1)
			used += snprintf(buf + used, size - used, "%s%d", used ? "," : "", cpu);
}
