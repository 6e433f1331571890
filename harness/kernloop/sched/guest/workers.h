/* SPDX-License-Identifier: Apache-2.0 */
/* Worker processes of the workloads. All work is defined by CPU time, so that a slow machine changes nothing. */
#ifndef KERNLOOP_WORKERS_H
#define KERNLOOP_WORKERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_WORKERS = 160, MAX_SAMPLES = 512, ANY_CPU = -1 };

/* What one worker shows to the controller, in shared memory. */
struct worker {
	pid_t pid;
	int index;
	int arg;
	_Atomic uint64_t cpu_ns;	/* CPU time used */
	_Atomic uint64_t due_ns;	/* it has wanted the CPU since then (in the future while it sleeps) */
	_Atomic uint64_t worst_ns;	/* the longest it waited for the CPU */
	_Atomic uint64_t wanted_ns;	/* time in which it had work to do, by its own account */
	_Atomic uint64_t wants_since_ns;	/* ... and since when it has again, 0 while it rests */
	_Atomic uint64_t rounds;
	_Atomic uint64_t done_ns;	/* when its work was finished, 0 before */
	_Atomic bool failed;

	/* affinity storm: the mask in force, under a sequence lock, and how late it was seen outside */
	_Atomic unsigned int mask_seq;
	_Atomic uint64_t mask;
	_Atomic uint64_t mask_ns;
	_Atomic uint64_t outside_ns;

	/* wake-ups: the two futex words, and round trips in microseconds */
	_Atomic uint32_t ping;
	_Atomic uint32_t pong;
	uint32_t sample[MAX_SAMPLES];
};

struct pool {
	_Atomic bool stop;
	_Atomic int refused;	/* a fork failed with this errno */
	_Atomic bool gentle;	/* spinners mostly sleep: leave the CPUs to a loader at work */
	int count;
	struct worker worker[MAX_WORKERS];
};

extern struct pool *pool;

void pool_open(void);
struct worker *spawn(void (*body)(struct worker *), int nice, int cpu, int arg);
/* Kills and reaps all workers; answers how many could not be reaped in time. */
int pool_stop(double seconds);
bool pool_busy(void);	/* some worker is not done yet */

/* For the controller: the longest wait so far, a wait still going on included; in seconds. */
double worst_wait(const struct worker *w);
double overdue(const struct worker *w);
double longest_of(struct worker *const *group, int count);
bool anybody_overdue(struct worker *const *group, int count, double seconds);

/* For worker bodies. A partial scheduler's load stays SCHED_EXT: another policy would be another scheduler's. */
void set_policy(int policy, int priority);
uint64_t clock_ns(void);
uint64_t cpu_ns(void);
void spin(uint64_t ns);				/* keep the CPU busy for so long, at most half a millisecond */
void burn(struct worker *w, double seconds);	/* use CPU time */
void rest(struct worker *w, double seconds);	/* sleep, then note how late the CPU came */
void rest_until(struct worker *w, uint64_t due_ns);
void ran(struct worker *w);			/* on the CPU now */

/* Bodies that more than one test uses. */
void spinner(struct worker *w);
void forker(struct worker *w);			/* short tasks without an end */
void prober(struct worker *w);			/* wakes once a second */

/* A fixed sequence per seed. */
uint32_t prng(uint32_t *state);

#endif
