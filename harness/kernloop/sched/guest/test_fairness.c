// SPDX-License-Identifier: Apache-2.0
/*
 * fairness: tasks of one CPU share it. Two at nice 0 and two at nice 5, since a lone pair shares 1:1 under any scheduler
 * that dispatches before it queues the previous task again.
 */
#include <stdio.h>

#include "suite.h"
#include "workers.h"

enum { PAIR = 2, TASKS = 2 * PAIR, LIGHT_NICE = 5 };

#define WARM_UP_S 0.3
#define MEASURE_S 4.0		/* 25 turns of a nice 5 task with slices of 20 ms: one more or less is 4 % */
#define RATIO 3.06		/* 1024 / 335 (sched_prio_to_weight in kernel/sched/core.c) */
#define RATIO_TOLERANCE 0.25
#define EQUAL_TOLERANCE 0.15
/* Without a promise: whoever gets less than this of an equal share is as good as starved. */
#define PROGRESS 0.1
/* Who looks at weights without a promise may use them for other than shares, but not backwards. */
#define BACKWARDS 0.8

static double more(double a, double b)
{
	return a > b ? a / b : b / a;
}

void test_fairness(struct result *r)
{
	struct worker *task[TASKS];
	double used[TASKS], least, begin, sum = 0, ratio;
	/* The last CPU: the first one has the most interrupts. */
	int cpu = suite.cpus - 1;

	for (int i = 0; i < TASKS; i++)
		task[i] = spawn(spinner, i < PAIR ? 0 : LIGHT_NICE, cpu, 0);
	pump(now() + WARM_UP_S);
	for (int i = 0; i < TASKS; i++)
		used[i] = -(task[i]->cpu_ns / 1e9);
	begin = now();
	pump(begin + MEASURE_S);
	for (int i = 0; i < TASKS; i++) {
		used[i] += task[i]->cpu_ns / 1e9;
		sum += used[i];
	}
	least = used[0];
	for (int i = 1; i < TASKS; i++)
		least = used[i] < least ? used[i] : least;
	/* Next to nothing would be a division by it. */
	for (int i = 0; i < TASKS; i++)
		used[i] += 0.001;
	ratio = (used[0] + used[1]) / (used[2] + used[3]);

	note(r, "nice0_to_nice5", ratio);
	note(r, "nice0_to_nice0", more(used[0], used[1]));
	note(r, "nice5_to_nice5", more(used[2], used[3]));
	note(r, "least_percent_of_equal_share", 100 * least * TASKS / MEASURE_S);
	note(r, "used_percent", 100 * sum / MEASURE_S);

	if (least < PROGRESS * MEASURE_S / TASKS)
		fail(r, "one of %d tasks on a CPU got %.1f %% of it", TASKS, 100 * least / MEASURE_S);
	if (suite.claims & CLAIM_WEIGHTS) {
		r->unit = "times";
		r->figure = ratio;
		r->limit = RATIO * (ratio > RATIO ? 1 + RATIO_TOLERANCE : 1 - RATIO_TOLERANCE);
		r->reason = "nice 0 has 3.06 times the weight of nice 5; 25 % for slices that do not come out even";
		if (more(ratio, RATIO) > 1 + RATIO_TOLERANCE)
			fail(r, "nice 0 got %.2f times the CPU time of nice 5, by weight it is %.2f", ratio, RATIO);
		if (more(used[0], used[1]) > 1 + EQUAL_TOLERANCE || more(used[2], used[3]) > 1 + EQUAL_TOLERANCE)
			fail(r, "of two equal tasks one got %.2f times the CPU time of the other",
			     more(used[0], used[1]) > more(used[2], used[3]) ? more(used[0], used[1]) : more(used[2], used[3]));
		return;
	}
	if (suite.seen & CLAIM_WEIGHTS) {
		r->unit = "times";
		r->figure = ratio;
		r->limit = BACKWARDS;
		r->reason = "weights are read, shares by weight are not promised: but the heavier task must not get less";
		if (ratio < BACKWARDS)
			fail(r, "nice 0 got %.2f times the CPU time of nice 5, whose weight is a third: weights are reversed", ratio);
		return;
	}
	r->unit = "%";
	r->figure = 100 * least * TASKS / MEASURE_S;
	r->limit = 100 * PROGRESS;
	r->reason = "no claim on weights: each task must only get on, with a tenth of an equal share";
}
