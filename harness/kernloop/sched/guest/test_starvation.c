// SPDX-License-Identifier: Apache-2.0
/*
 * starvation: long enough for what goes wrong slowly. A crowd larger than any small queue, hogs of all nice values, tasks that
 * come back after seconds of sleep, children without an end beside old tasks.
 */
#include <stdio.h>

#include "suite.h"
#include "workers.h"

enum { CROWD = 72, CROWD_PER_CPU = 8, NICES = 4, HOGS_PER_CPU = 2, BROOD = 6 };

#define CROWD_S 3.0
#define NICE_S 4.0
#define SLEEP_S 4.0		/* less than the watchdog's time: the figure tells more than a stall */
#define BACK_S 2.5
#define BIRTH_S 2.5
/* A fair turn: slices of 20 ms, by weight. A second is no long time yet. */
#define SLICE_S 0.020
#define FACTOR 3.0
#define LEAST_S 1.0

static const int nices[NICES] = { -5, 0, 5, 10 };
static const double weights[NICES] = { 3121, 1024, 335, 110 };	/* sched_prio_to_weight, kernel/sched/core.c */

static struct worker *group[MAX_WORKERS];
static double limits[MAX_WORKERS];
static int members;

/* `turn`: after how long a fair scheduler comes to it. */
static void add(void (*body)(struct worker *), int nice, double turn)
{
	limits[members] = FACTOR * turn > LEAST_S ? FACTOR * turn : LEAST_S;
	group[members++] = spawn(body, nice, ANY_CPU, 0);
}

static void clear(void)
{
	pool_stop(2 * suite.watchdog);
	members = 0;
}

/* Sleeps long, then wants all it can get: credit for its sleep would be seconds of CPU time. */
static void comes_back(struct worker *w)
{
	rest(w, SLEEP_S);
	spinner(w);
}

static bool someone_starves(void)
{
	for (int i = 0; i < members; i++)
		if (overdue(group[i]) > limits[i])
			return true;
	return false;
}

/* Whoever starves is waited for: the kernel's watchdog and its dump tell most. */
static void pump_and_stay(double seconds)
{
	pump(now() + seconds);
	if (!suite.lost && someone_starves())
		pump_while(someone_starves, now() + 1.5 * suite.watchdog + 1);
}

/* Each `step`th member from `first` on. The figure is the wait in percent of what is allowed. */
static void look(struct result *r, int first, int step, const char *name, const char *who)
{
	double wait = 0, percent;

	for (int i = first; i < members; i += step)
		if (worst_wait(group[i]) > wait)
			wait = worst_wait(group[i]);
	percent = 100 * wait / limits[first];
	note(r, name, wait / MS);
	/* Of one that has failed the figure is that of the reason. */
	if (percent > r->figure && r->outcome == PASSED)
		r->figure = percent;
	if (percent > r->limit)
		fail(r, "%s waited %.0f ms for the CPU, allowed are %.0f ms", who, wait / MS, limits[first] / MS);
}

static void crowd(struct result *r)
{
	int count = CROWD > CROWD_PER_CPU * suite.cpus ? CROWD : CROWD_PER_CPU * suite.cpus;

	for (int i = 0; i < count; i++)
		add(spinner, 0, SLICE_S * count / suite.cpus);
	pump_and_stay(CROWD_S);
	look(r, 0, 1, "crowd_longest_ms", "one of a crowd of equal tasks");
	clear();
}

/* On each CPU a hog of each nice value. */
static void nice_values(struct result *r)
{
	static const char *const names[NICES] = { "nice_minus5_longest_ms", "nice0_longest_ms", "nice5_longest_ms",
						  "nice10_longest_ms" };
	static const char *const who[NICES] = { "a task at nice -5", "a task at nice 0", "a task at nice 5",
						"a task at nice 10" };
	double total = 0;

	for (int i = 0; i < NICES; i++)
		total += weights[i];
	for (int i = 0; i < NICES * suite.cpus; i++)
		add(spinner, nices[i % NICES], SLICE_S * total / weights[i % NICES]);
	pump_and_stay(NICE_S);
	for (int i = 0; i < NICES; i++)
		look(r, i, NICES, names[i], who[i]);
	clear();
}

/* A hog on each CPU, so that clocks of used time run fast, and as many that slept meanwhile. */
static void returners(struct result *r)
{
	for (int i = 0; i < suite.cpus; i++)
		add(spinner, 0, SLICE_S);
	for (int i = 0; i < suite.cpus; i++)
		spawn(comes_back, 0, ANY_CPU, 0);
	pump_and_stay(SLEEP_S + BACK_S);
	look(r, 0, 1, "beside_returners_longest_ms", "a task beside others that had slept for seconds");
	clear();
}

static void births(struct result *r)
{
	for (int i = 0; i < HOGS_PER_CPU * suite.cpus; i++)
		add(spinner, 0, SLICE_S * (HOGS_PER_CPU + BROOD));
	for (int i = 0; i < suite.cpus; i++)
		spawn(forker, 0, ANY_CPU, 0);
	pump_and_stay(BIRTH_S);
	look(r, 0, 1, "beside_births_longest_ms", "a task beside others that fork without an end");
	clear();
}

void test_starvation(struct result *r)
{
	r->unit = "%";
	r->limit = 100;
	r->reason = "of three fair turns with 20 ms slices, but at least a second: who waits longer is passed over";
	crowd(r);
	if (!suite.lost)
		nice_values(r);
	if (!suite.lost)
		returners(r);
	if (!suite.lost)
		births(r);
}
