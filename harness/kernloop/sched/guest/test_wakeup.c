// SPDX-License-Identifier: Apache-2.0
/* wakeup: pairs that wake each other on an otherwise idle machine, beside tasks that come back after seconds. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

enum { ROUNDS = 120, PAIR_SETS = 3 };

#define PAIR_DEADLINE_S 10.0
#define LOST_S 2		/* a partner that does not answer for so long was not woken */
#define MIX_S 2.6
#define MIX_WAIT_LIMIT_S 1.0
/* Loose on purpose: it is to catch wake-ups that wait for a tick, a slice or a missing kick, not small overheads. */
#define LATENCY_FACTOR 5.0
#define LATENCY_FLOOR_US 5000.0

/* A pair: the waker's worker is the even one, the wakee's the next. */
static int pipes[2 * PAIR_SETS][2];
static double eevdf_us;

static void send_pipe(int fd, struct worker *w)
{
	if (write(fd, "x", 1) != 1)
		w->failed = true;
}

static bool receive_pipe(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;

	return poll(&p, 1, LOST_S * 1000) == 1 && read(fd, &byte, 1) == 1;
}

static void send_futex(_Atomic uint32_t *word)
{
	(*word)++;
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool receive_futex(_Atomic uint32_t *word, uint32_t old)
{
	const struct timespec limit = { .tv_sec = LOST_S };

	while (*word == old)
		if (syscall(SYS_futex, word, FUTEX_WAIT, old, &limit, NULL, 0) && errno == ETIMEDOUT)
			return *word != old;
	return true;
}

/* Answers the partner for ever; idle between, so that it waits for no CPU. */
static void pipe_wakee(struct worker *w)
{
	w->due_ns = UINT64_MAX;
	while (!pool->stop)
		if (receive_pipe(pipes[2 * w->arg][0])) {
			send_pipe(pipes[2 * w->arg + 1][1], w);
			w->rounds++;
		}
}

static void futex_wakee(struct worker *w)
{
	struct worker *waker = &pool->worker[w->index - 1];

	w->due_ns = UINT64_MAX;
	for (uint32_t seen = 0; !pool->stop;)
		if (receive_futex(&waker->ping, seen)) {
			seen++;
			send_futex(&waker->pong);
			w->rounds++;
		}
}

/* One round trip, noted in microseconds. Half of them start from an idle machine. */
static bool round_trip(struct worker *w, bool futex)
{
	uint32_t old = w->pong;
	uint64_t begin;
	bool ok;

	if (w->rounds % 2)
		rest(w, 2 * MS);
	begin = clock_ns();
	w->due_ns = begin;
	if (futex)
		send_futex(&w->ping);
	else
		send_pipe(pipes[2 * w->arg][1], w);
	ok = futex ? receive_futex(&w->pong, old) : receive_pipe(pipes[2 * w->arg + 1][0]);
	ran(w);
	w->sample[w->rounds++ % MAX_SAMPLES] = (clock_ns() - begin) / 1000;
	w->failed |= !ok;
	return ok;
}

static void pipe_waker(struct worker *w)
{
	while (w->rounds < ROUNDS && round_trip(w, false))
		;
}

static void futex_waker(struct worker *w)
{
	while (w->rounds < ROUNDS && round_trip(w, true))
		;
}

/* As above without an end, with pauses: the machine is to stay mostly idle. */
static void pipe_waker_slow(struct worker *w)
{
	while (!pool->stop && round_trip(w, false))
		rest(w, 5 * MS);
}

static void futex_waker_slow(struct worker *w)
{
	while (!pool->stop && round_trip(w, true))
		rest(w, 5 * MS);
}

static void long_sleeper(struct worker *w)
{
	while (!pool->stop) {
		rest(w, w->arg * MS);
		burn(w, 30 * MS);
		w->rounds++;
	}
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void open_pipes(void)
{
	for (int i = 0; i < 2 * PAIR_SETS; i++)
		if (pipe2(pipes[i], O_CLOEXEC))
			abort();
}

static void close_pipes(void)
{
	for (int i = 0; i < 2 * PAIR_SETS; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
}

struct latency {
	double p50, p99, max;
	bool lost;
};

static bool waking(void)
{
	return !pool->worker[0].done_ns;
}

/* One pair alone on the machine. */
static struct latency pair(void (*waker)(struct worker *), void (*wakee)(struct worker *))
{
	struct latency l = { 0 };
	struct worker *w;
	uint32_t *us;

	open_pipes();
	w = spawn(waker, 0, ANY_CPU, 0);
	spawn(wakee, 0, ANY_CPU, 0);
	l.lost = !pump_while(waking, now() + PAIR_DEADLINE_S) || w->failed || w->rounds < ROUNDS;
	us = w->sample;
	qsort(us, ROUNDS, sizeof(*us), by_value);
	l.p50 = us[ROUNDS / 2];
	l.p99 = us[ROUNDS - 1 - ROUNDS / 100];
	l.max = us[ROUNDS - 1];
	pool_stop(PAIR_DEADLINE_S);
	close_pipes();
	return l;
}

static double worse(double a, double b)
{
	return a > b ? a : b;
}

double baseline_wakeup(void)
{
	struct latency p = pair(pipe_waker, pipe_wakee), f = pair(futex_waker, futex_wakee);

	return eevdf_us = worse(p.p99, f.p99);
}

/* Pairs of all kinds and nice values, beside tasks that sleep for seconds and come back with work to do. */
static void mix(struct result *r)
{
	static const int nice[PAIR_SETS][2] = { { 0, 0 }, { 10, -5 }, { -10, 5 } };
	static const int sleep_ms[] = { 1100, 1700, 2300 }, sleeper_nice[] = { 0, -10, 10 };
	double wait = 0;

	open_pipes();
	for (int i = 0; i < PAIR_SETS; i++) {
		spawn(pipe_waker_slow, nice[i][0], ANY_CPU, i);
		spawn(pipe_wakee, nice[i][1], ANY_CPU, i);
		spawn(futex_waker_slow, nice[i][1], ANY_CPU, i);
		spawn(futex_wakee, nice[i][0], ANY_CPU, i);
	}
	for (int i = 0; i < suite.cpus + 1; i++)
		spawn(long_sleeper, sleeper_nice[i % 3], ANY_CPU, sleep_ms[i % 3]);
	pump(now() + MIX_S);
	for (int i = 0; i < pool->count; i++) {
		const struct worker *w = &pool->worker[i];

		wait = worse(wait, worst_wait(w));
		if (w->failed)
			fail(r, "a wake-up was lost: no answer for %d s", LOST_S);
		else if (!w->rounds)
			fail(r, "task %d of %d made no progress", i + 1, pool->count);
	}
	note(r, "mix_longest_wait_ms", wait / MS);
	note(r, "mix_wait_limit_ms", MIX_WAIT_LIMIT_S / MS);
	if (wait > MIX_WAIT_LIMIT_S)
		fail(r, "a task on a mostly idle machine waited %.0f ms for the CPU or its partner", wait / MS);
	close_pipes();
}

void test_wakeup(struct result *r)
{
	struct latency p = pair(pipe_waker, pipe_wakee), f = pair(futex_waker, futex_wakee);

	r->unit = "us";
	r->limit = worse(LATENCY_FACTOR * eevdf_us, LATENCY_FLOOR_US);
	r->figure = worse(p.p99, f.p99);
	note(r, "pipe_p50_us", p.p50);
	note(r, "pipe_p99_us", p.p99);
	note(r, "pipe_max_us", p.max);
	note(r, "futex_p50_us", f.p50);
	note(r, "futex_p99_us", f.p99);
	note(r, "futex_max_us", f.max);
	note(r, "eevdf_p99_us", eevdf_us);
	if (p.lost || f.lost)
		fail(r, "a wake-up was lost: a %s pair stood still", p.lost ? "pipe" : "futex");
	if (r->figure > r->limit)
		fail(r, "a round trip took %.0f us (99 %%), EEVDF needs %.0f us", r->figure, eevdf_us);
	if (!suite.lost)
		mix(r);
}
