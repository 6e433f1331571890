// SPDX-License-Identifier: Apache-2.0
/* fork-storm: hundreds of short tasks, several parents at a time. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

/* Children live at the same time in batches, so that they queue. */
enum { CHILD_NS = 500000, TASKS = 240, BATCH = 6, PARENTS_PER_CPU = 3 };

#define DEADLINE_S 30.0
#define RATE_LIMIT 0.5		/* of EEVDF's rate */

static double eevdf_rate;

/* The children share their parent's memory, each with a stack of its own: copying it would be most of the work. */
static char stacks[BATCH][16384] __attribute__((aligned(16)));

static int child(void *arg)
{
	pid_t parent = *(pid_t *)arg;
	uint64_t end = cpu_ns() + CHILD_NS, used;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	while ((used = cpu_ns()) < end)
		spin(end - used);
	_exit(0);
}

/* A batch of short tasks, and the wait for them, which is no wait for the CPU. */
static void brood(struct worker *w, int batch)
{
	pid_t self = getpid();
	int started = 0, status;

	while (started < batch) {
		if (clone(child, stacks[started] + sizeof(stacks[0]), CLONE_VM | SIGCHLD, &self) < 0)
			break;
		started++;
		ran(w);
	}
	if (started < batch) {
		pool->refused = errno;
		w->failed = true;
	}
	w->due_ns = UINT64_MAX;
	for (int i = 0; i < started; i++) {
		if (wait(&status) < 0 || status)
			w->failed = true;
		else
			w->rounds++;
	}
	ran(w);
}

static void parent(struct worker *w)
{
	for (int left = w->arg; left > 0; left -= BATCH)
		brood(w, left < BATCH ? left : BATCH);
}

void forker(struct worker *w)
{
	while (!pool->stop)
		brood(w, BATCH);
}

/* Tasks a second, 0 when not all came and went. */
static double storm(int tasks, int *reaped)
{
	int parents = PARENTS_PER_CPU * suite.cpus;
	double begin = now(), end = begin;
	bool ok;

	*reaped = 0;
	for (int i = 0; i < parents; i++)
		spawn(parent, 0, ANY_CPU, tasks / parents);
	ok = pump_while(pool_busy, begin + DEADLINE_S);
	for (int i = 0; i < parents; i++) {
		*reaped += pool->worker[i].rounds;
		ok &= !pool->worker[i].failed;
		if (pool->worker[i].done_ns / 1e9 > end)
			end = pool->worker[i].done_ns / 1e9;
	}
	return ok ? *reaped / (end - begin) : 0;
}

double baseline_fork(void)
{
	int reaped;

	eevdf_rate = storm(TASKS / 2, &reaped);
	pool_stop(DEADLINE_S);
	return eevdf_rate;
}

void test_fork(struct result *r)
{
	int reaped, parents = PARENTS_PER_CPU * suite.cpus, all = TASKS / parents * parents;

	r->unit = "tasks/s";
	r->limit = RATE_LIMIT * eevdf_rate;
	r->figure = storm(TASKS, &reaped);
	note(r, "reaped", reaped);
	note(r, "started", all);
	note(r, "eevdf_rate", eevdf_rate);
	if (reaped < all)
		fail(r, "%d of %d short tasks came back within %.0f s", reaped, all, DEADLINE_S);
	if (r->figure < r->limit)
		fail(r, "%.0f tasks a second, EEVDF does %.0f", r->figure, eevdf_rate);
}
