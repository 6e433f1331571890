// SPDX-License-Identifier: Apache-2.0
/*
 * rt-dl: real-time tasks take half of each CPU and a deadline task has a reservation. They come first, in the kernel and
 * not in the scheduler: it can make them late only by keeping interrupts off, and must bring its own tasks through.
 * Half a CPU and no more: 6.12 has no server that would protect SCHED_EXT tasks from those of SCHED_FIFO.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

enum { HOGS_PER_CPU = 2, RT_PRIORITY = 10 };
#ifndef SCHED_DEADLINE
enum { SCHED_DEADLINE = 6 };
#endif

/* struct sched_attr (include/uapi/linux/sched/types.h), which libc's headers have or have not and the kernel's fight with. */
struct deadline_attr {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

#define SECONDS 2.5
#define RT_WORK_S (10 * MS)
#define DL_PERIOD_S (20 * MS)
#define DL_RUNTIME_S (6 * MS)
#define DL_WORK_S (2 * MS)
/* Two hogs and half a CPU: with 20 ms slices each has its turn within 0.1 s. Far more is let pass: it is no latency test. */
#define HOG_LIMIT_S 2.0

static void real_time(struct worker *w)
{
	const struct sched_param param = { .sched_priority = RT_PRIORITY };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		w->failed = true;
	/* Until now it was one of the scheduler's. */
	w->due_ns = clock_ns();
	w->worst_ns = 0;
	while (!pool->stop && !w->failed) {
		burn(w, RT_WORK_S);
		rest(w, RT_WORK_S);
		w->rounds++;
	}
}

/*
 * `wanted_ns` counts misses, `worst_ns` is how long after its release the latest job but one was done: one of 122 ends
 * in the next period now and then, under EEVDF too.
 */
static void deadline(struct worker *w)
{
	const struct deadline_attr attr = {
		.size = sizeof(attr),
		.policy = SCHED_DEADLINE,
		.runtime = DL_RUNTIME_S * 1e9,
		.deadline = DL_PERIOD_S * 1e9,
		.period = DL_PERIOD_S * 1e9,
	};
	uint64_t release, period = DL_PERIOD_S * 1e9, latest = 0;

	if (syscall(SYS_sched_setattr, 0, &attr, 0)) {
		w->arg = errno;
		w->failed = true;
		return;
	}
	/* After this the period begins anew. */
	sched_yield();
	for (release = clock_ns(); !pool->stop; release += period) {
		const struct timespec t = { release / 1000000000, release % 1000000000 };
		uint64_t end, late;

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		for (end = cpu_ns() + (uint64_t)(DL_WORK_S * 1e9); cpu_ns() < end;)
			spin(end - cpu_ns());
		late = clock_ns() - release;
		if (late > latest) {
			w->worst_ns = latest;
			latest = late;
		} else if (late > w->worst_ns) {
			w->worst_ns = late;
		}
		w->wanted_ns += late > period;
		w->rounds++;
	}
}

void test_rtdl(struct result *r)
{
	struct worker *hogs[HOGS_PER_CPU * MAX_CPUS], *rt[MAX_CPUS], *dl;
	int nr_hogs = HOGS_PER_CPU * suite.cpus;
	double hog_wait, rt_wait;

	for (int i = 0; i < nr_hogs; i++)
		hogs[i] = spawn(spinner, 0, ANY_CPU, 0);
	for (int i = 0; i < suite.cpus; i++)
		rt[i] = spawn(real_time, 0, i, 0);
	dl = spawn(deadline, 0, ANY_CPU, 0);
	pump(now() + SECONDS);

	hog_wait = longest_of(hogs, nr_hogs);
	rt_wait = longest_of(rt, suite.cpus);
	r->unit = "ms";
	r->figure = dl->worst_ns / 1e6;
	r->limit = DL_PERIOD_S / MS;
	r->reason = "the deadline, 20 ms for 2 ms of work: no task of the scheduler's may come before it; one job may be late";
	note(r, "dl_jobs", dl->rounds);
	note(r, "dl_misses", dl->wanted_ns);
	note(r, "rt_longest_wait_ms", rt_wait / MS);
	note(r, "hog_longest_wait_ms", hog_wait / MS);
	note(r, "hog_limit_ms", HOG_LIMIT_S / MS);
	if (dl->failed)
		unclear(r, "no deadline reservation: %s", strerror(dl->arg));
	for (int i = 0; i < suite.cpus; i++)
		if (rt[i]->failed)
			unclear(r, "SCHED_FIFO was refused");
	if (dl->wanted_ns > 1)
		fail(r, "a deadline task missed %d of %d deadlines: the CPU was not to be had for %.0f ms",
		     (int)dl->wanted_ns, (int)dl->rounds, r->figure);
	else if (dl->rounds < SECONDS / DL_PERIOD_S / 2)
		fail(r, "a deadline task came to %d jobs in %.1f s", (int)dl->rounds, SECONDS);
	if (rt_wait / MS > r->limit)
		fail(r, "a SCHED_FIFO task waited %.0f ms for the CPU", rt_wait / MS);
	if (hog_wait > HOG_LIMIT_S)
		fail(r, "a task waited %.0f ms for the half of a CPU that real-time tasks leave", hog_wait / MS);
}
