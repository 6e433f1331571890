// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into QEMU: whenever its main thread wants the big lock it waits for the worst moment to get it, which is when
 * all vCPUs look halted and the vCPU thread has not accounted yet what the last one executed. A busy host does that now
 * and then; this one does it all the time.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define PATIENCE 100000 /* ns */

typedef void lock_hook(void *mutex, const char *file, int line);
typedef void wait_hook(void *cond, void *mutex, const char *file, int line);

extern lock_hook *bql_mutex_lock_func;
extern wait_hook *qemu_cond_wait_func;
extern bool all_cpu_threads_idle(void);

static lock_hook *real_lock;
static wait_hook *real_wait;
static atomic_bool parked;
static __thread bool is_vcpus;

static long now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000 + now.tv_nsec;
}

static void lock_bql(void *mutex, const char *file, int line)
{
	if (strstr(file, "tcg-accel-ops-rr.c"))
		is_vcpus = true;
	if (strstr(file, "main-loop.c"))
		for (long end = now() + PATIENCE; now() < end && (parked || !all_cpu_threads_idle());)
			;
	real_lock(mutex, file, line);
}

static void wait_with_lock(void *cond, void *mutex, const char *file, int line)
{
	parked |= is_vcpus;
	real_wait(cond, mutex, file, line);
	parked &= !is_vcpus;
}

static void __attribute__((constructor)) start(void)
{
	real_lock = bql_mutex_lock_func;
	real_wait = qemu_cond_wait_func;
	bql_mutex_lock_func = lock_bql;
	qemu_cond_wait_func = wait_with_lock;
}
