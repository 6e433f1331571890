// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "workers.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pulse.h"
#include "suite.h"

enum { POLICY_SCHED_EXT = 7 };

/* CPU time is read after so much of real time: a system call costs far more of the host than what it measures. */
#define BURN_STEP_NS 500000

#define FORK_PATIENCE_S 5.0

struct pool *pool;

void pool_open(void)
{
	pool = mmap(NULL, sizeof(*pool), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pool == MAP_FAILED) {
		perror("scxsuite: mmap");
		exit(2);
	}
}

static uint64_t read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

uint64_t clock_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t cpu_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static _Noreturn void run_worker(struct worker *w, void (*body)(struct worker *), int nice, int cpu, pid_t controller)
{
	const struct sched_param param = { 0 };
	cpu_set_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != controller)
		_exit(1);
	setpriority(PRIO_PROCESS, 0, nice);
	/* A partial scheduler takes only those who ask. */
	if (suite.partial)
		sched_setscheduler(0, POLICY_SCHED_EXT, &param);
	if (cpu != ANY_CPU) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	body(w);
	w->due_ns = UINT64_MAX;
	w->done_ns = clock_ns();
	_exit(0);
}

/* A scheduler can refuse a fork, by ops.init_task(). It is told, and taken out when it goes on with that. */
static pid_t fork_patiently(void)
{
	double patience = now() + FORK_PATIENCE_S;
	pid_t pid;

	while ((pid = fork()) < 0) {
		pool->refused = errno;
		if (now() < patience) {
			drain(now() + 20 * MS);
		} else if (loader_running()) {
			suite.unloading = BY_USER;
			suite.up = false;
			loader_stop(SIGKILL, FORK_PATIENCE_S);
		} else {
			perror("scxsuite: fork");
			exit(2);
		}
	}
	return pid;
}

struct worker *spawn(void (*body)(struct worker *), int nice, int cpu, int arg)
{
	struct worker *w = &pool->worker[pool->count];
	pid_t controller = getpid(), pid;

	memset(w, 0, sizeof(*w));
	w->index = pool->count++;
	w->arg = arg;
	w->due_ns = clock_ns();
	pid = fork_patiently();
	if (pid == 0)
		run_worker(w, body, nice, cpu, controller);
	/* Not straight from fork(): the child shares this memory, and its 0 must not land here. */
	w->pid = pid;
	return w;
}

static bool reap(void)
{
	bool left = false;

	for (int i = 0; i < pool->count; i++) {
		struct worker *w = &pool->worker[i];

		if (w->pid && waitpid(w->pid, NULL, WNOHANG))
			w->pid = 0;
		left |= w->pid != 0;
	}
	return left;
}

int pool_stop(double seconds)
{
	double deadline = now() + seconds;
	int left = 0;

	pulse_collect();
	pool->stop = true;
	for (int i = 0; i < pool->count; i++)
		if (pool->worker[i].pid)
			kill(pool->worker[i].pid, SIGKILL);
	/* A starved task cannot even die; it does once the kernel has ejected its scheduler. */
	while (reap() && now() < deadline)
		drain(now() + 20 * MS);
	for (int i = 0; i < pool->count; i++)
		left += pool->worker[i].pid != 0;
	if (!left) {
		pool->count = 0;
		pool->stop = false;
	}
	return left;
}

bool pool_busy(void)
{
	for (int i = 0; i < pool->count; i++)
		if (!pool->worker[i].done_ns)
			return true;
	return false;
}

double overdue(const struct worker *w)
{
	uint64_t due = w->due_ns, t = clock_ns();

	return t > due ? (t - due) / 1e9 : 0;
}

double worst_wait(const struct worker *w)
{
	double current = overdue(w), past = w->worst_ns / 1e9;

	return current > past ? current : past;
}

double longest_of(struct worker *const *group, int count)
{
	double longest = 0;

	for (int i = 0; i < count; i++)
		if (worst_wait(group[i]) > longest)
			longest = worst_wait(group[i]);
	return longest;
}

bool anybody_overdue(struct worker *const *group, int count, double seconds)
{
	for (int i = 0; i < count; i++)
		if (overdue(group[i]) > seconds)
			return true;
	return false;
}

void set_policy(int policy, int priority)
{
	const struct sched_param param = { .sched_priority = priority };

	if (!suite.partial)
		sched_setscheduler(0, policy, &param);
}

void ran(struct worker *w)
{
	uint64_t t = clock_ns(), late = t > w->due_ns ? t - w->due_ns : 0;
	uint64_t used = cpu_ns(), busy = used - w->cpu_ns;

	if (late > w->worst_ns)
		w->worst_ns = late;
	pulse_ran(t, late > busy ? late - busy : 0, busy);
	w->due_ns = t;
	w->cpu_ns = used;
}

/* Virtual time passes by instruction, and under TCG none is cheaper than a nop: a thousand cost the host a few. */
void spin(uint64_t ns)
{
	uint64_t end = clock_ns() + (ns < BURN_STEP_NS ? ns : BURN_STEP_NS);

	do
		asm volatile(".rept 1000\n\tnop\n\t.endr");
	while (clock_ns() < end);
}

void burn(struct worker *w, double seconds)
{
	uint64_t end;

	ran(w);
	end = w->cpu_ns + (uint64_t)(seconds * 1e9);
	do {
		spin(end - w->cpu_ns);
		ran(w);
	} while (w->cpu_ns < end);
}

void rest_until(struct worker *w, uint64_t due_ns)
{
	const struct timespec t = { due_ns / 1000000000, due_ns % 1000000000 };

	w->due_ns = due_ns;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
	ran(w);
}

void rest(struct worker *w, double seconds)
{
	rest_until(w, clock_ns() + (uint64_t)(seconds * 1e9));
}

void spinner(struct worker *w)
{
	while (!pool->stop) {
		burn(w, 2 * MS);
		w->rounds++;
		if (pool->gentle)
			rest(w, 50 * MS);
	}
}

void prober(struct worker *w)
{
	uint64_t due = clock_ns();

	while (!pool->stop) {
		due += 1000000000;
		rest_until(w, due);
		burn(w, 0.2 * MS);
		w->rounds++;
	}
}

uint32_t prng(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}
