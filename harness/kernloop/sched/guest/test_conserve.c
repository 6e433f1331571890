// SPDX-License-Identifier: Apache-2.0
/* work-conservation: while no more tasks want to run than there are CPUs, none of them waits. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "suite.h"
#include "workers.h"

enum { WINDOWS = 4, GATHERINGS = 3 };

#define WARM_UP_S 0.1
#define PHASE_S 0.6
#define GATHER_S (50 * MS)
#define SPREAD_S (20 * MS)	/* a rest: each has woken up once */
#define BLINK_S 0.5
#define LIMIT_PERCENT 90.0
#define BLINK_WORK_S (16 * MS)
#define BLINK_REST_S (4 * MS)

/* Work and rest by turns. Each rest ends in a wake-up that must find the idle CPU; late ones are time wanted, not used. */
static void blinker(struct worker *w)
{
	/* Else each wake-up is late by 50 us on purpose. And out of step with its like. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	rest(w, w->index * 0.7 * MS);
	while (!pool->stop) {
		uint64_t due = clock_ns() + (uint64_t)(BLINK_REST_S * 1e9);

		w->wants_since_ns = due;
		rest_until(w, due);
		burn(w, BLINK_WORK_S);
		w->wants_since_ns = 0;
		w->wanted_ns += clock_ns() - due;
		w->rounds++;
	}
}

/* Of the workers from `first` on, as the next one. */
static double cpu_time(int first)
{
	double sum = 0;

	for (int i = first; i < pool->count; i++)
		sum += pool->worker[i].cpu_ns / 1e9;
	return sum;
}

static double wanted_time(int first)
{
	double sum = 0;

	for (int i = first; i < pool->count; i++) {
		const struct worker *w = &pool->worker[i];
		uint64_t since = w->wants_since_ns, t = clock_ns();

		sum += (w->wanted_ns + (since && since < t ? t - since : 0)) / 1e9;
	}
	return sum;
}

/*
 * What the hogs use of what they could, in percent. Where each stays is soon settled, so the best of some windows counts:
 * a scheduler may take until something happens on the idle CPU, but not for ever.
 */
static double hogs_percent(void)
{
	double best = 0;

	pump(now() + WARM_UP_S);
	for (int i = 0; i < WINDOWS && best < LIMIT_PERCENT; i++) {
		double begin = now(), used = cpu_time(0);

		if (!pump(begin + PHASE_S))
			break;
		used = 100 * (cpu_time(0) - used) / (pool->count * (now() - begin));
		best = used > best ? used : best;
	}
	return best;
}

static void let_use(int cpus, int first)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int cpu = 0; cpu < cpus; cpu++)
		CPU_SET(cpu, &set);
	for (int i = first; i < pool->count; i++)
		sched_setaffinity(pool->worker[i].pid, sizeof(set), &set);
}

/* A hog has one CPU. The others slept there: where nobody looks for an idle one when they wake up, they stay. */
static double blinkers_percent(void)
{
	double used = 0, wanted = 0;

	spawn(spinner, 0, 0, 0);
	for (int i = 1; i < suite.cpus; i++)
		spawn(blinker, 0, 0, 0);
	pump(now() + WARM_UP_S);
	for (int i = 0; i < GATHERINGS; i++) {
		let_use(1, 1);
		pump(now() + GATHER_S);
		let_use(suite.cpus, 1);
		pump(now() + SPREAD_S);
		used -= cpu_time(1);
		wanted -= wanted_time(1);
		if (!pump(now() + BLINK_S))
			break;
		used += cpu_time(1);
		wanted += wanted_time(1);
	}
	return wanted > 0 && used < wanted ? 100 * used / wanted : 100;
}

static void take(struct result *r, const char *name, double percent, const char *what)
{
	note(r, name, percent);
	/* Of one that has failed the figure is that of the reason. */
	if (percent < r->figure && r->outcome == PASSED)
		r->figure = percent;
	if (percent < r->limit)
		fail(r, "only %.1f %% of the CPU time that is there was used by %s", percent, what);
	pool_stop(PHASE_S);
}

void test_conserve(struct result *r)
{
	int cpus = suite.cpus;

	r->unit = "%";
	r->figure = 100;
	r->limit = LIMIT_PERCENT;
	r->reason = "each task has a CPU of its own; 10 % are for ticks, switches and the way to that CPU, dear on this machine of 125 MIPS";

	spawn(spinner, 0, ANY_CPU, 0);
	take(r, "one_hog_percent", hogs_percent(), "a lone hog");
	for (int i = 0; i < cpus; i++)
		spawn(spinner, 0, ANY_CPU, 0);
	take(r, "hogs_percent", hogs_percent(), "as many hogs as CPUs");
	for (int i = 0; i < cpus; i++)
		spawn(spinner, 0, i ? ANY_CPU : 0, 0);
	take(r, "hogs_beside_pinned_percent", hogs_percent(), "a hog pinned to a CPU and a free one for each other");
	for (int i = 0; i < cpus; i++)
		spawn(spinner, 0, 0, 0);
	pump(now() + WARM_UP_S);
	let_use(cpus, 0);
	take(r, "hogs_set_free_percent", hogs_percent(), "hogs that were all pinned to one CPU and may use all now");
	take(r, "blinkers_percent", blinkers_percent(), "tasks that sleep and work by turns, one for each CPU but that of a hog");
}
