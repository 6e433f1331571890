// SPDX-License-Identifier: Apache-2.0
/* cpuset: the CPUs of a cgroup shrink, grow and change under its tasks, and tasks move between two such groups. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cgroup.h"
#include "place.h"
#include "suite.h"
#include "workers.h"

enum { CHANGES = 12, SEED = 0x51ed270b, RUNNERS_PER_CPU = 2 };

#define PHASE_S 0.05
#define OUTSIDE_LIMIT_S 0.1
#define PROGRESS_LIMIT_S 1.0

static const char *const groups[] = { "a", "b" };
static uint64_t allowed[2];

static uint64_t all_cpus(void)
{
	return (1ULL << suite.cpus) - 1;
}

/* A quarter of the CPUs, so that a turn comes within few slices on a big machine as well. */
static uint64_t some_cpus(uint32_t *random)
{
	uint64_t mask = 0;

	for (int i = 0; i < (suite.cpus + 3) / 4; i++)
		mask |= 1ULL << prng(random) % suite.cpus;
	return mask;
}

static int group_of(const struct worker *w)
{
	return w->arg & 1;
}

/* Who has a mask of its own keeps what both allow; when that is nothing, the cpuset's (kernel/cgroup/cpuset.c). */
static uint64_t effective(const struct worker *w)
{
	uint64_t own = w->arg & 2 ? 1ULL << w->index % suite.cpus : all_cpus(), set = allowed[group_of(w)];

	return own & set ? own & set : set;
}

/* `change` is a group whose CPUs become `mask`, or -1: everybody moves to the other group. */
static bool change(int group, uint64_t mask)
{
	char text[64];
	bool ok = true;

	for (int i = 0; i < pool->count; i++)
		mask_begin(&pool->worker[i], 0);
	if (group >= 0) {
		mask_text(mask, text, sizeof(text));
		allowed[group] = mask;
		ok = cgroup_write(groups[group], "cpuset.cpus", text);
	}
	for (int i = 0; i < pool->count; i++) {
		struct worker *w = &pool->worker[i];

		if (group < 0) {
			w->arg ^= 1;
			ok &= cgroup_enter(groups[group_of(w)], w->pid);
		}
		w->mask = effective(w);
		mask_end(w);
	}
	return ok;
}

static uint64_t before[MAX_WORKERS];

static bool someone_stands(void)
{
	for (int i = 0; i < pool->count; i++)
		if (pool->worker[i].rounds == before[i])
			return true;
	return false;
}

/* Waits until all have run since the change; false when one did not. */
static bool all_resume(struct result *r)
{
	double began = now();
	bool resumed;

	for (int i = 0; i < pool->count; i++)
		before[i] = pool->worker[i].rounds;
	resumed = pump_while(someone_stands, began + PROGRESS_LIMIT_S);
	if (!resumed)
		/* Its watchdog, and the dump, tell which task and where. */
		pump_while(someone_stands, now() + 1.5 * suite.watchdog + 1);
	if ((now() - began) / MS > r->figure)
		r->figure = (now() - began) / MS;
	return resumed;
}

static void start(struct result *r)
{
	for (int i = 0; i < suite.cpus; i++) {
		for (int k = 0; k < RUNNERS_PER_CPU; k++)
			spawn(runner, 0, ANY_CPU, k);
		spawn(sleeper, 0, ANY_CPU, i & 1);
		/* Pinned by its own wish, which the cpuset may overrule. */
		spawn(sleeper, 0, pool->count % suite.cpus, 2 | (i & 1));
	}
	for (int i = 0; i < pool->count; i++)
		if (!cgroup_enter(groups[group_of(&pool->worker[i])], pool->worker[i].pid))
			fail(r, "a task cannot be moved to a cgroup: %s", strerror(errno));
}

static void storm(struct result *r)
{
	uint32_t random = SEED;
	int done = 0;

	start(r);
	for (; done < CHANGES && !suite.lost; done++) {
		int group = done / 4 & 1;
		bool ok = true;

		switch (done % 4) {
		case 0:
			ok = change(group, some_cpus(&random));
			break;
		case 1:
			ok = change(!group, ~some_cpus(&random) & all_cpus() ?: 1);
			break;
		case 2:
			ok = change(-1, 0);
			break;
		case 3:
			ok = change(group, all_cpus());
			break;
		}
		if (!ok)
			fail(r, "a cpuset cannot be changed: %s", strerror(errno));
		if (!all_resume(r))
			break;
		pump(now() + PHASE_S);
	}
	note(r, "changes", done);
}

void test_cpuset(struct result *r)
{
	const char *missing = cgroup_open("+cpuset");
	double outside = 0;

	r->unit = "ms";
	r->limit = PROGRESS_LIMIT_S / MS;
	r->reason = "the kernel moves a task before the write returns; what is left is its turn among a few others";
	if (missing) {
		not_here(r, "%s", missing);
		return;
	}
	for (int i = 0; i < 2; i++) {
		char text[64];

		allowed[i] = all_cpus();
		mask_text(allowed[i], text, sizeof(text));
		if (!cgroup_make(groups[i]) || !cgroup_write(groups[i], "cpuset.cpus", text))
			fail(r, "a cgroup with a cpuset cannot be made: %s", strerror(errno));
	}
	storm(r);
	for (int i = 0; i < pool->count; i++) {
		const struct worker *w = &pool->worker[i];

		if (w->outside_ns / 1e9 > outside)
			outside = w->outside_ns / 1e9;
		if (!w->rounds)
			fail(r, "task %d of %d made no progress", i + 1, pool->count);
	}
	note(r, "tasks", pool->count);
	note(r, "outside_ms", outside / MS);
	note(r, "outside_limit_ms", OUTSIDE_LIMIT_S / MS);
	if (outside > OUTSIDE_LIMIT_S)
		fail(r, "a task was still outside its cpuset %.0f ms after the change", outside / MS);
	if (r->figure > r->limit)
		fail(r, "a task stood still for %.0f ms after its cpuset changed", r->figure);
	cgroup_close();
}
