// SPDX-License-Identifier: Apache-2.0
/* affinity-storm: tasks are re-pinned, by themselves and by others, while they run, queue, sleep and wake. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "pinned.h"
#include "place.h"
#include "suite.h"
#include "workers.h"

enum { SEED = 0x9e3779b9 };

#define STORM_S 1.5
#define SHUFFLE_PAUSE_S (4 * MS)
/* The kernel moves a task before sched_setaffinity returns; a scheduler that overrules it gets this much grace. */
#define OUTSIDE_LIMIT_S 0.1
/* Up to four tasks may be pinned to one CPU, each with a 20 ms slice. */
#define WAIT_LIMIT_S 1.0

static void pin(struct worker *w, pid_t pid, uint64_t mask)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		if (mask >> cpu & 1)
			CPU_SET(cpu, &set);
	mask_begin(w, mask);
	if (sched_setaffinity(pid, sizeof(set), &set))
		w->failed = true;
	mask_end(w);
}

static uint64_t random_mask(uint32_t *state)
{
	uint64_t all = (1ULL << suite.cpus) - 1, mask = prng(state) & all;

	/* Every other one is a single CPU: those are hard on a scheduler. */
	return prng(state) & 1 || !mask ? 1ULL << prng(state) % suite.cpus : mask;
}

static void self_pinner(struct worker *w)
{
	uint32_t random = SEED + w->arg;

	while (!pool->stop) {
		pin(w, 0, random_mask(&random));
		look(w);
		burn(w, 1 * MS);
		look(w);
		rest(w, 2 * MS);
		look(w);
		w->rounds++;
	}
}

static void shuffler(struct worker *w)
{
	uint32_t random = SEED;

	while (!pool->stop) {
		struct worker *victim = &pool->worker[prng(&random) % w->arg];

		pin(victim, victim->pid, random_mask(&random));
		w->rounds++;
		rest(w, SHUFFLE_PAUSE_S);
	}
}

void test_affinity(struct result *r)
{
	int cpus = suite.cpus, victims, held;
	double wait = 0;

	r->unit = "ms";
	r->limit = OUTSIDE_LIMIT_S / MS;
	for (int i = 0; i < cpus; i++) {
		spawn(runner, 0, ANY_CPU, 0);
		spawn(sleeper, 0, ANY_CPU, 0);
	}
	/* With migration disabled: an order to another CPU ejects a scheduler that looks at the mask alone. */
	held = pinned_open() ? cpus : 0;
	for (int i = 0; i < held; i++)
		spawn(pinned_runner, 0, ANY_CPU, 0);
	victims = pool->count;
	for (int i = 0; i < cpus; i++) {
		spawn(self_pinner, 0, ANY_CPU, i + 1);
		/* Pinned for good, so no victim. It was set before its first look. */
		spawn(sleeper, 0, i, 0)->mask = 1ULL << i;
	}
	spawn(shuffler, 0, ANY_CPU, victims);
	pump(now() + STORM_S);
	pinned_close();

	for (int i = 0; i < pool->count; i++) {
		const struct worker *w = &pool->worker[i];

		if (w->outside_ns / 1e6 > r->figure)
			r->figure = w->outside_ns / 1e6;
		if (worst_wait(w) > wait)
			wait = worst_wait(w);
		if (!w->rounds)
			fail(r, "task %d of %d made no progress", i + 1, pool->count);
		if (w->failed)
			fail(r, "sched_setaffinity failed");
	}
	note(r, "tasks", pool->count);
	note(r, "repinned_by_others", pool->worker[pool->count - 1].rounds);
	note(r, "migration_disabled", held);
	note(r, "longest_wait_ms", wait / MS);
	note(r, "wait_limit_ms", WAIT_LIMIT_S / MS);
	if (r->figure > r->limit)
		fail(r, "a task was still outside its CPU mask %.0f ms after the change", r->figure);
	if (wait > WAIT_LIMIT_S)
		fail(r, "a task waited %.0f ms for the CPU", wait / MS);
}
