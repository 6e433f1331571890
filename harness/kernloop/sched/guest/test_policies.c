// SPDX-License-Identifier: Apache-2.0
/*
 * policy-mix: tasks that yield all the time, SCHED_IDLE, SCHED_BATCH, nice -20 and 10, all at once.
 * policy-flips: tasks change their policy, and have it changed, while they run, queue and sleep.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>

#include "suite.h"
#include "workers.h"

enum { SEED = 0x2545f491, FIFO_PRIORITY = 5, VICTIMS_PER_CPU = 2 };
#ifndef SCHED_EXT
enum { SCHED_EXT = 7 };
#endif

/*
 * A fair turn beside a handful of tasks with 20 ms slices comes within 0.2 s. Nice -20 has 89 times the weight of nice 0:
 * it may use all of its CPU for some turns.
 */
#define WAIT_LIMIT_S 2.0
#define SETTLE_S 0.1

static struct worker *equal[3 * MAX_CPUS], *light[MAX_CPUS], *idle, *flippers[2 * VICTIMS_PER_CPU * MAX_CPUS], *flipper;
static int nr_equal, nr_light, nr_flippers;

static void yielder(struct worker *w)
{
	while (!pool->stop) {
		ran(w);
		spin(100000);
		sched_yield();
		w->rounds++;
	}
}

static void batch(struct worker *w)
{
	set_policy(SCHED_BATCH, 0);
	spinner(w);
}

/* What it used before it was light does not count: its first turn as what it is comes with a wake-up. */
static void light_spinner(struct worker *w)
{
	if (w->arg)
		set_policy(SCHED_IDLE, 0);
	rest(w, SETTLE_S);
	spinner(w);
}

/* Heavy in bursts: a task at nice -20 that never slept would be right to keep its CPU for seconds. */
static void heavy(struct worker *w)
{
	while (!pool->stop) {
		burn(w, 2 * MS);
		rest(w, 8 * MS);
		w->rounds++;
	}
}

void begin_policies(void)
{
	nr_equal = nr_light = 0;
	for (int i = 0; i < suite.cpus; i++) {
		equal[nr_equal++] = spawn(yielder, 0, ANY_CPU, 0);
		equal[nr_equal++] = spawn(batch, 0, ANY_CPU, 0);
		equal[nr_equal++] = spawn(heavy, -20, ANY_CPU, 0);
		light[nr_light++] = spawn(light_spinner, 10, ANY_CPU, 0);
	}
	/* Weight 3 of 1024: EEVDF lets it wait for seconds, too. It is there to be carried along. */
	idle = spawn(light_spinner, 0, ANY_CPU, 1);
}

void end_policies(struct result *r)
{
	r->unit = "ms";
	r->limit = WAIT_LIMIT_S / MS;
	r->reason = "turns of 20 ms among equal tasks come round within 0.2 s; nice 10 must only get on at all";
	r->figure = longest_of(equal, nr_equal) / MS;
	note(r, "nice10_longest_wait_ms", longest_of(light, nr_light) / MS);
	note(r, "sched_idle_longest_wait_ms", worst_wait(idle) / MS);
	if (r->figure > r->limit)
		fail(r, "a task at nice 0 (yielding or SCHED_BATCH) or -20 waited %.0f ms for the CPU", r->figure);
	for (int i = 0; i < nr_equal; i++)
		if (!equal[i]->rounds)
			fail(r, "task %d of %d at nice 0 or -20 made no progress", i + 1, nr_equal);
	for (int i = 0; i < nr_light; i++)
		if (!light[i]->rounds)
			fail(r, "a task at nice 10 was never run");
}

/* A sixth of a CPU: if all of them happen to be SCHED_FIFO, more than half of the machine is left to the others. */
static void stepper(struct worker *w)
{
	while (!pool->stop) {
		burn(w, 1 * MS);
		w->rounds++;
		rest(w, 5 * MS);
	}
}

static int random_policy(uint32_t *state)
{
	/* Not SCHED_IDLE: EEVDF as well lets it wait for seconds. */
	static const int policies[] = { SCHED_OTHER, SCHED_EXT, SCHED_FIFO, SCHED_BATCH, SCHED_EXT, SCHED_RR };

	return policies[prng(state) % (sizeof(policies) / sizeof(policies[0]))];
}

static void flip(struct worker *w, pid_t pid, uint32_t *state)
{
	int policy = random_policy(state);
	const struct sched_param param = { policy == SCHED_FIFO || policy == SCHED_RR ? FIFO_PRIORITY : 0 };

	if (sched_setscheduler(pid, policy, &param))
		w->failed = true;
}

static void self_flipper(struct worker *w)
{
	uint32_t random = SEED + w->index;

	while (!pool->stop) {
		flip(w, 0, &random);
		burn(w, 0.5 * MS);
		w->rounds++;
		rest(w, 3 * MS);
	}
}

static void flip_others(struct worker *w)
{
	uint32_t random = SEED;

	while (!pool->stop) {
		struct worker *victim = flippers[prng(&random) % w->arg];

		flip(w, victim->pid, &random);
		w->rounds++;
		rest(w, 3 * MS);
	}
}

void begin_flips(void)
{
	int victims;

	nr_flippers = 0;
	for (int i = 0; i < VICTIMS_PER_CPU * suite.cpus; i++)
		flippers[nr_flippers++] = spawn(stepper, 0, ANY_CPU, 0);
	victims = nr_flippers;
	for (int i = 0; i < suite.cpus; i++)
		flippers[nr_flippers++] = spawn(self_flipper, 0, ANY_CPU, 0);
	flipper = spawn(flip_others, 0, ANY_CPU, victims);
}

static bool someone_has_not_begun(void)
{
	for (int i = 0; i < nr_flippers; i++)
		if (!flippers[i]->rounds)
			return true;
	return false;
}

void end_flips(struct result *r)
{
	/* With many vCPUs on one host CPU a first step takes long, for everybody. */
	pump_while(someone_has_not_begun, now() + WAIT_LIMIT_S);
	r->unit = "ms";
	r->limit = WAIT_LIMIT_S / MS;
	r->reason = "in whatever class it is, the turn of a task comes within 0.2 s; ten times that";
	r->figure = longest_of(flippers, nr_flippers) / MS;
	note(r, "flips_by_others", flipper->rounds);
	if (flipper->failed)
		unclear(r, "sched_setscheduler failed");
	if (r->figure > r->limit)
		fail(r, "a task whose policy changes waited %.0f ms for the CPU", r->figure);
	for (int i = 0; i < nr_flippers; i++)
		if (!flippers[i]->rounds)
			fail(r, "task %d of %d whose policy changes made no progress", i + 1, nr_flippers);
}
