// SPDX-License-Identifier: Apache-2.0
/* sleeper: who sleeps a lot and works little comes to its CPU soon, though hogs are on all of them. */
#include <stdlib.h>

#include "suite.h"
#include "workers.h"

enum { HOGS_PER_CPU = 2, SAMPLES = 200 };

#define DEADLINE_S 20.0
#define SLEEP_S (5 * MS)
#define WORK_S (0.3 * MS)
#define FACTOR 3.0
/*
 * First come, first served with the kernel's 20 ms slices, which is a sound policy: the sleeper waits for the end of a
 * slice and for the hogs and sleepers before it, three turns of 20 ms. Half as much again for what queues unevenly.
 */
#define FLOOR_US 90000.0

static double eevdf_us;

static void sleeper(struct worker *w)
{
	while (w->rounds < SAMPLES) {
		uint64_t due = clock_ns() + (uint64_t)(SLEEP_S * 1e9);

		rest_until(w, due);
		w->sample[w->rounds++] = (clock_ns() - due) / 1000;
		burn(w, WORK_S);
	}
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static struct worker *sleepers[MAX_CPUS];

static bool someone_sleeps(void)
{
	for (int i = 0; i < suite.cpus; i++)
		if (!sleepers[i]->done_ns)
			return true;
	return false;
}

/* The 50th, 99th and 100th percentile in microseconds; false when not all samples came. */
static bool latency(double *p50, double *p99, double *max)
{
	static uint32_t all[MAX_CPUS * SAMPLES];
	int count = 0;
	bool ok;

	for (int i = 0; i < HOGS_PER_CPU * suite.cpus; i++)
		spawn(spinner, 0, ANY_CPU, 0);
	for (int i = 0; i < suite.cpus; i++)
		sleepers[i] = spawn(sleeper, 0, ANY_CPU, 0);
	ok = pump_while(someone_sleeps, now() + DEADLINE_S);
	for (int i = 0; i < suite.cpus; i++)
		for (unsigned int k = 0; k < sleepers[i]->rounds; k++)
			all[count++] = sleepers[i]->sample[k];
	/* One that still waits has waited so long. */
	for (int i = 0; i < suite.cpus && count < MAX_CPUS * SAMPLES; i++)
		if (!sleepers[i]->done_ns)
			all[count++] = overdue(sleepers[i]) * 1e6;
	qsort(all, count, sizeof(*all), by_value);
	*p50 = all[count / 2];
	*p99 = all[count - 1 - count / 100];
	*max = all[count - 1];
	return ok;
}

double baseline_sleeper(void)
{
	double p50, max;

	latency(&p50, &eevdf_us, &max);
	pool_stop(DEADLINE_S);
	return eevdf_us;
}

void test_sleeper(struct result *r)
{
	double p50, max;
	bool ok = latency(&p50, &r->figure, &max);

	r->unit = "us";
	r->baseline = eevdf_us;
	r->limit = FACTOR * eevdf_us > FLOOR_US ? FACTOR * eevdf_us : FLOOR_US;
	r->reason = FACTOR * eevdf_us > FLOOR_US ?
		    "three times EEVDF's" : "a plain queue with slices of 20 ms, two hogs a CPU: three turns, and half of that";
	note(r, "p50_us", p50);
	note(r, "max_us", max);
	if (!ok)
		fail(r, "%d sleeps took more than %.0f s beside hogs", SAMPLES, DEADLINE_S);
	if (r->figure > r->limit)
		fail(r, "a sleeper waited %.1f ms for the CPU (99 %%), EEVDF's %.1f ms", r->figure / 1000, eevdf_us / 1000);
}
