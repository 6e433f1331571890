// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "pulse.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "json.h"
#include "workers.h"

/* Waits in powers of two from 1 us on; time in slots, the last of which takes what lasts longer. */
enum { BUCKETS = 26, SLOTS = 80, SLOT_MS = 100, TOLD_WORKERS = 64 };

static struct pulse {
	uint64_t begin;
	_Atomic uint32_t waits[BUCKETS];
	_Atomic uint32_t busy_us[MAX_CPUS][SLOTS];
	int workers;
	struct {
		int nice;
		uint64_t cpu_us;
		uint64_t worst_us;
	} worker[TOLD_WORKERS];
} *pulse;

void pulse_open(void)
{
	pulse = mmap(NULL, sizeof(*pulse), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pulse == MAP_FAILED) {
		perror("scxsuite: mmap");
		exit(2);
	}
}

void pulse_begin(void)
{
	pulse->begin = clock_ns();
	pulse->workers = 0;
	for (int i = 0; i < BUCKETS; i++)
		pulse->waits[i] = 0;
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		for (int i = 0; i < SLOTS; i++)
			pulse->busy_us[cpu][i] = 0;
}

void pulse_ran(uint64_t t, uint64_t waited_ns, uint64_t busy_ns)
{
	const uint64_t us = waited_ns / 1000;
	int cpu = sched_getcpu(), bucket = us ? 64 - __builtin_clzll(us) : 0;
	uint64_t slot = (t - pulse->begin) / (SLOT_MS * 1000000ULL);

	atomic_fetch_add_explicit(&pulse->waits[bucket < BUCKETS ? bucket : BUCKETS - 1], 1, memory_order_relaxed);
	if (busy_ns && cpu >= 0 && cpu < MAX_CPUS)
		atomic_fetch_add_explicit(&pulse->busy_us[cpu][slot < SLOTS ? slot : SLOTS - 1], busy_ns / 1000,
					  memory_order_relaxed);
}

void pulse_collect(void)
{
	for (int i = 0; i < pool->count && pulse->workers < TOLD_WORKERS; i++) {
		const struct worker *w = &pool->worker[i];

		pulse->worker[pulse->workers].nice = getpriority(PRIO_PROCESS, w->pid);
		pulse->worker[pulse->workers].cpu_us = w->cpu_ns / 1000;
		pulse->worker[pulse->workers++].worst_us = worst_wait(w) / 1e-6;
	}
}

void pulse_tell(const char *const *tests, int count)
{
	uint64_t slots = (clock_ns() - pulse->begin) / (SLOT_MS * 1000000ULL) + 1;

	json_open("pulse");
	json_begin("tests", '[');
	for (int i = 0; i < count; i++)
		json_str(NULL, tests[i]);
	json_end(']');
	json_str("scheduler", suite.up ? suite.ops : "");
	json_num("seconds", (clock_ns() - pulse->begin) / 1e9);
	json_begin("waits", '[');
	for (int i = 0; i < BUCKETS; i++)
		json_uint(NULL, pulse->waits[i]);
	json_end(']');
	json_int("slot_ms", SLOT_MS);
	json_begin("busy", '[');
	for (int cpu = 0; cpu < suite.cpus; cpu++) {
		json_begin(NULL, '[');
		for (uint64_t i = 0; i < SLOTS && i < slots; i++)
			json_uint(NULL, (pulse->busy_us[cpu][i] + SLOT_MS * 5) / (SLOT_MS * 10));
		json_end(']');
	}
	json_end(']');
	json_begin("workers", '[');
	for (int i = 0; i < pulse->workers; i++) {
		json_begin(NULL, '[');
		json_int(NULL, pulse->worker[i].nice);
		json_uint(NULL, pulse->worker[i].cpu_us / 1000);
		json_uint(NULL, pulse->worker[i].worst_us / 1000);
		json_end(']');
	}
	json_end(']');
	json_close();
}
