// SPDX-License-Identifier: Apache-2.0
/* leak: thousands of tasks come and go, and what the scheduler keeps of each of them is looked for afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpfmaps.h"
#include "slabs.h"
#include "suite.h"
#include "workers.h"

/*
 * What leaks grows in every round; what the kernel keeps for the next time (caches of each CPU, stacks) in some. After a
 * first round, of which nothing is said, the least growth of the others counts.
 */
enum { TASKS = 300, TASKS_FULL = 3000, FEW_CPUS = 4, ROUNDS = 2, STACK = 4096 };

#define STORM_DEADLINE_S 30.0
#define REST_S 1.0		/* memory comes back after RCU's grace periods */
#define SWEEP_S 20.0		/* a scheduler may sweep up behind its tasks, now and then */
#define LIMIT 0.5		/* objects a task */

/* What there was of one kind, and the least that came with each task of a round. */
struct thing {
	char name[40];
	long first, old;
	double growth;
};

static struct {
	int rounds;		/* of breeding since the first stock was taken */
	bool bred;		/* since the last one */
	int count;
	struct thing thing[MAX_MAPS + MAX_CACHES];
} found;

static char stack[STACK] __attribute__((aligned(16)));

static int child(void *arg)
{
	(void)arg;
	_exit(0);
}

static void breeder(struct worker *w)
{
	int status;

	for (int i = 0; i < w->arg; i++) {
		pid_t pid = clone(child, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);

		if (pid < 0)
			pool->refused = errno;
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			w->failed = true;
		else
			w->rounds++;
	}
}

/* Each CPU keeps some objects of its own: where there are many it takes more tasks to tell that from a leak. */
static int tasks(void)
{
	int few = suite.full ? TASKS_FULL : TASKS;

	return suite.cpus > FEW_CPUS ? few * suite.cpus / FEW_CPUS : few;
}

/* One task at a time, each on the way from fork to exit: how many of them came back. */
static int breed(void)
{
	const struct worker *w = spawn(breeder, 0, ANY_CPU, tasks());
	int back;

	pump_while(pool_busy, now() + STORM_DEADLINE_S);
	back = w->rounds;
	pool_stop(STORM_DEADLINE_S);
	return back;
}

static void smaller(double *growth, long objects, int rounds)
{
	double each = (double)objects / (rounds * tasks());

	if (each < *growth)
		*growth = each > 0 ? each : 0;
}

static void count(const char *name, long there)
{
	struct thing *t = found.thing, *end = t + found.count;

	while (t < end && strcmp(t->name, name))
		t++;
	if (t < end) {
		smaller(&t->growth, there - t->first, found.rounds);
		/* Not when nothing was bred since: what is swept up late counts in the sum. */
		if (found.bred)
			smaller(&t->growth, there - t->old, 1);
		t->old = there;
	} else if (found.count < MAX_MAPS + MAX_CACHES) {
		snprintf(t->name, sizeof(t->name), "%s", name);
		t->first = t->old = there;
		/* What appears later is not known to grow in every round. */
		t->growth = found.rounds ? 0 : 1e9;
		found.count++;
	}
}

/* Elements of the scheduler's hash maps, objects of the kernel's slab caches: whatever the size, an object is one. */
static void take_stock(void)
{
	static struct slab_cache caches[MAX_CACHES];
	struct map_count maps[MAX_MAPS];
	int nr_maps = count_elements(maps), nr_caches = read_slabs(caches);
	char name[40];

	for (int i = 0; i < nr_maps; i++) {
		snprintf(name, sizeof(name), "map %.16s#%u", maps[i].name, maps[i].id);
		count(name, maps[i].elements);
	}
	for (int i = 0; i < nr_caches; i++) {
		snprintf(name, sizeof(name), "slab %s", caches[i].name);
		count(name, caches[i].objects);
	}
}

/* Tasks come and go, then stock is taken; answers how many of them came back. */
static int round_of(bool first)
{
	int back = breed();

	pump(now() + REST_S);
	found.rounds += !first;
	found.bred = true;
	take_stock();
	found.bred = false;
	return back;
}

static const struct thing *worst(double *growth)
{
	const struct thing *worst = NULL;

	*growth = 0;
	for (int i = 0; i < found.count; i++) {
		/* Stacks' addresses are given back when there are many (lazy_max_pages(), mm/vmalloc.c). */
		if (!strcmp(found.thing[i].name, "slab vmap_area") || found.thing[i].growth <= *growth)
			continue;
		*growth = found.thing[i].growth;
		worst = &found.thing[i];
	}
	return worst;
}

void test_leak(struct result *r)
{
	const struct thing *most = NULL;
	double swept = now() + SWEEP_S;

	r->unit = "objects/task";
	r->limit = LIMIT;
	r->reason = "whatever the scheduler keeps of a task goes with it; half an object is more than the kernel's caches of each CPU take";
	memset(&found, 0, sizeof(found));
	for (int i = 0; i <= ROUNDS && !suite.lost; i++) {
		int back = round_of(i == 0);

		if (back < tasks())
			fail(r, "%d of %d tasks came and went", back, tasks());
	}
	most = worst(&r->figure);
	/* In time a scheduler may still sweep. */
	while (!suite.lost && r->figure > r->limit && now() < swept) {
		pump(now() + REST_S);
		take_stock();
		most = worst(&r->figure);
	}
	note(r, "tasks", (ROUNDS + 1) * tasks());
	note(r, "kinds_of_objects", found.count);
	if (r->figure > r->limit && most)
		fail(r, "%s keeps %.2f objects of each task that came and went", most->name, r->figure);
}
