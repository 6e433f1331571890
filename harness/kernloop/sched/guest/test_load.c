// SPDX-License-Identifier: Apache-2.0
/* idle and saturation: does everybody get the CPU, when nobody or everybody wants it? */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

enum { SPINNERS_PER_CPU = 4, RETURNERS_PER_CPU = 2 };

#define IDLE_ROUND_S 1.5
#define IDLE_LIMIT_S 0.25	/* a lone sleeper on an idle machine has nothing to wait for */
#define PHASE_S 1.5		/* whoever starves at the end of the second one is waited for */
#define PROBER_LIMIT_S 2.0	/* or half the watchdog's time, if that is less */
/*
 * A spinner must get the CPU every second. With six hogs a CPU and the kernel's 20 ms slices its turn comes after
 * 0.1 s. At nice 5 it has a third of a nice 0 share, so a fair scheduler lets it wait three times as long; it gets 2 s.
 */
#define SPINNER_LIMIT_S 1.0
#define SPINNER_NICE_LIMIT_S 2.0

void test_idle(struct result *r)
{
	const struct worker *p = spawn(prober, 0, ANY_CPU, 0);

	r->unit = "ms";
	r->limit = IDLE_LIMIT_S / MS;
	for (int round = 0; round < 3; round++) {
		if (!pump(now() + IDLE_ROUND_S))
			break;
		r->figure = worst_wait(p) / MS;
		if (r->figure > r->limit)
			fail(r, "a task on an idle machine waited %.0f ms for the CPU", r->figure);
	}
	note(r, "wakeups", p->rounds);
}

/* Sleeps while the others spin, then spins too: a scheduler that hands out credit for sleep lets it take over. */
static void returner(struct worker *w)
{
	rest(w, PHASE_S);
	spinner(w);
}

/* Work for kernel threads: a work item on every CPU's kworker, then an RCU grace period. */
static void kthread_prober(struct worker *w)
{
	char byte;

	while (!pool->stop) {
		int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);

		w->due_ns = clock_ns();
		if (fd < 0 || read(fd, &byte, 1) < 0)
			w->failed = true;
		syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
		ran(w);
		close(fd);
		w->rounds++;
		rest(w, 0.5);
	}
}

static bool someone_starves(void)
{
	for (int i = 0; i < pool->count; i++)
		if (overdue(&pool->worker[i]) > SPINNER_LIMIT_S)
			return true;
	return false;
}

void test_saturation(struct result *r)
{
	struct worker *spinners[SPINNERS_PER_CPU * MAX_CPUS], *returners[RETURNERS_PER_CPU * MAX_CPUS];
	struct worker *probers[MAX_CPUS + 1], *kernel_work;
	int cpus = suite.cpus;
	int nr_spinners = SPINNERS_PER_CPU * cpus, nr_returners = RETURNERS_PER_CPU * cpus;
	double begin = now(), used = 0, spinner_wait, nice_wait = 0, equal_wait, kthread_wait;

	r->unit = "ms";
	r->limit = (suite.watchdog / 2 < PROBER_LIMIT_S ? suite.watchdog / 2 : PROBER_LIMIT_S) / MS;

	for (int i = 0; i < nr_spinners; i++)
		spinners[i] = spawn(spinner, 0, ANY_CPU, 0);
	for (int i = 0; i < nr_returners; i++)
		returners[i] = spawn(returner, 0, ANY_CPU, 0);
	/* One prober goes where it is put, and each CPU has one that can run nowhere else. */
	for (int i = 0; i <= cpus; i++)
		probers[i] = spawn(prober, 0, i < cpus ? i : ANY_CPU, 0);
	kernel_work = spawn(kthread_prober, 0, ANY_CPU, 0);

	/* First all are equal; then every fourth spinner is at nice 5 and the returners come. */
	pump(begin + PHASE_S);
	equal_wait = longest_of(spinners, nr_spinners);
	/* A change of nice value would queue a lost task again and hide it from the watchdog. */
	for (int i = 3; i < nr_spinners; i += 4)
		if (overdue(spinners[i]) < SPINNER_LIMIT_S)
			setpriority(PRIO_PROCESS, spinners[i]->pid, 5);
	pump(begin + 2 * PHASE_S);
	/* A lost task ejects the scheduler only after its watchdog's time: stay for that, the dump tells most. */
	pump_while(someone_starves, now() + 1.5 * suite.watchdog + 1);

	spinner_wait = longest_of(returners, nr_returners);
	for (int i = 0; i < nr_spinners; i++) {
		double *group = i % 4 == 3 ? &nice_wait : &spinner_wait;

		if (worst_wait(spinners[i]) > *group)
			*group = worst_wait(spinners[i]);
		used += spinners[i]->cpu_ns / 1e9;
	}
	for (int i = 0; i < nr_returners; i++)
		used += returners[i]->cpu_ns / 1e9;
	kthread_wait = worst_wait(kernel_work);
	r->figure = longest_of(probers, cpus + 1) / MS;

	note(r, "prober_free_ms", worst_wait(probers[cpus]) / MS);
	note(r, "prober_pinned_ms", longest_of(probers, cpus) / MS);
	note(r, "kthread_ms", kthread_wait / MS);
	note(r, "spinner_equal_ms", equal_wait / MS);
	note(r, "spinner_nice0_ms", spinner_wait / MS);
	note(r, "spinner_nice5_ms", nice_wait / MS);
	note(r, "spinner_limit_ms", SPINNER_LIMIT_S / MS);
	note(r, "spinner_nice5_limit_ms", SPINNER_NICE_LIMIT_S / MS);
	note(r, "cpu_used_percent", 100 * used / (cpus * (now() - begin)));
	if (r->figure > r->limit)
		fail(r, "a prober waited %.0f ms for the CPU", r->figure);
	if (kernel_work->failed)
		fail(r, "/proc/sys/vm/stat_refresh cannot be read");
	if (kthread_wait / MS > r->limit)
		fail(r, "kernel work (a kworker on each CPU, RCU) took %.0f ms", kthread_wait / MS);
	if (equal_wait > SPINNER_LIMIT_S)
		fail(r, "one of the equal spinners waited %.0f ms for the CPU", equal_wait / MS);
	if (spinner_wait > SPINNER_LIMIT_S)
		fail(r, "a spinner at nice 0 waited %.0f ms for the CPU", spinner_wait / MS);
	if (nice_wait > SPINNER_NICE_LIMIT_S)
		fail(r, "a spinner at nice 5 waited %.0f ms for the CPU", nice_wait / MS);
}
