// SPDX-License-Identifier: Apache-2.0
/* cgroup-weights and cgroup-storm: shares of groups, and groups that come and go with tasks in them. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "place.h"
#include "suite.h"
#include "workers.h"

enum { HOGS_PER_CPU = 2, LIGHT = 100, HEAVY = 300 };
enum { GARDENERS = 3, VICTIMS_PER_CPU = 3, STORM_ROUNDS = 12, SEED = 0x2545f491 };

/* More than a scheduler's table of groups has room for, and few of them at one time. */
enum { PASSING = 300, AT_ONCE = 10 };

#define DYING_S 5.0
#define WARM_S 0.4		/* the groups' clocks come into step */
#define SHARES_S 2.4
#define RATIO_TOLERANCE 0.25
#define STAND_LIMIT_S 2.0
#define STORM_DEADLINE_S 20.0
#define CHILD_S (0.5 * MS)
#define OFFLINE_S (30 * MS)
#define US 1e-6

static uint64_t used_by(int group)
{
	uint64_t sum = 0;

	for (int i = 0; i < pool->count; i++)
		if (pool->worker[i].arg == group)
			sum += pool->worker[i].cpu_ns;
	return sum;
}

/* Those who want nothing but the CPU: gardeners wait for locks and grace periods as well. */
static int nr_watched;

static double longest_wait(void)
{
	double longest = 0;

	for (int i = 0; i < nr_watched; i++)
		if (worst_wait(&pool->worker[i]) > longest)
			longest = worst_wait(&pool->worker[i]);
	return longest;
}

static bool someone_stands(void)
{
	for (int i = 0; i < nr_watched; i++)
		if (overdue(&pool->worker[i]) > STAND_LIMIT_S)
			return true;
	return false;
}

static bool make_weighted(const char *name, int weight)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", weight);
	return cgroup_make(name) && cgroup_write(name, "cpu.weight", text);
}

/* The heavy group's CPU time over the light one's; 0 when nobody ran, -1 with errno when there are no such groups. */
static double shares(double seconds)
{
	static const char *const names[] = { "light", "heavy" };
	uint64_t before[2], used[2];

	if (!make_weighted(names[0], LIGHT) || !make_weighted(names[1], HEAVY))
		return -1;
	nr_watched = 2 * HOGS_PER_CPU * suite.cpus;
	for (int i = 0; i < nr_watched; i++) {
		const struct worker *w = spawn(spinner, 0, ANY_CPU, i & 1);

		if (!cgroup_enter(names[i & 1], w->pid))
			return -1;
	}
	pump(now() + WARM_S);
	for (int i = 0; i < 2; i++)
		before[i] = used_by(i);
	pump(now() + seconds);
	for (int i = 0; i < 2; i++)
		used[i] = used_by(i) - before[i];
	return used[0] ? (double)used[1] / used[0] : 0;
}

double baseline_cgroup_weights(void)
{
	double ratio = cgroup_open("+cpu") ? 0 : shares(SHARES_S / 2);

	pool_stop(STAND_LIMIT_S);
	cgroup_close();
	return ratio;
}

void test_cgroup_weights(struct result *r)
{
	const double wanted = (double)HEAVY / LIGHT;
	const char *missing = cgroup_open("+cpu");
	double wait;

	r->unit = "ratio";
	r->limit = wanted;
	r->reason = "weights 100 and 300 are claimed to be shares of 1 and 3; 25 % is what few seconds of slices blur";
	if (missing) {
		not_here(r, "%s", missing);
		return;
	}
	r->figure = shares(SHARES_S);
	if (r->figure < 0)
		fail(r, "a weighted cgroup with a task in it cannot be made: %s", strerror(errno));
	pump_while(someone_stands, now() + 1.5 * suite.watchdog + 1);
	wait = longest_wait();
	note(r, "longest_wait_ms", wait / MS);
	note(r, "wait_limit_ms", STAND_LIMIT_S / MS);
	if (wait > STAND_LIMIT_S)
		fail(r, "a task in a cgroup waited %.0f ms for the CPU", wait / MS);
	if (r->figure < wanted * (1 - RATIO_TOLERANCE) || r->figure > wanted * (1 + RATIO_TOLERANCE))
		fail(r, "cgroups of weights %d and %d got CPU time as 1 and %.2f", LIGHT, HEAVY, r->figure);
	pool_stop(STAND_LIMIT_S);
	cgroup_close();
}

/* What a gardener could not do: in `sample`, where the controller reads it. */
enum { MADE, WEIGHED, FORKED, RAN, MOVED, LEFT, REMOVED, DEEDS };
static const char *const deeds[DEEDS] = { "making a cgroup", "setting a weight", "a fork into a cgroup",
					  "a child in a cgroup", "moving a task into a cgroup",
					  "moving a task out of a cgroup", "removing a cgroup" };

static void tried(struct worker *w, int deed, bool ok)
{
	if (!ok && !w->failed) {
		w->sample[0] = deed;
		w->sample[1] = errno;
		w->failed = true;
	}
}

static void work(double seconds)
{
	uint64_t end = cpu_ns() + (uint64_t)(seconds * 1e9), used;

	while ((used = cpu_ns()) < end)
		spin(end - used);
}

/* It is born in the group, leaves it, and outlives it: a scheduler may still think of it as one of that group. */
static pid_t child_in(struct worker *w, const char *group)
{
	pid_t pid = cgroup_fork(group);

	if (pid < 0)
		pool->refused = errno;
	if (!pid) {
		bool left;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work(CHILD_S);
		left = cgroup_leave(0);
		for (int after = 0; after < 3; after += cgroup_gone(group)) {
			/* The scheduler is told of the group's end some ten milliseconds later. */
			usleep((cgroup_gone(group) ? OFFLINE_S : CHILD_S) / US);
			work(CHILD_S);
		}
		_exit(!left);
	}
	tried(w, FORKED, pid > 0);
	return pid;
}

static void await(struct worker *w, pid_t child)
{
	int status = 0;
	bool ok = child <= 0 || (waitpid(child, &status, 0) == child && !status);

	errno = ECHILD;
	tried(w, RAN, ok);
}

/* Makes a group with another in it, has its own victims and children run there, and removes both again. */
static void gardener(struct worker *w)
{
	uint32_t random = SEED + w->arg;
	char outer[32], inner[64], weight[16];
	pid_t child = 0;

	for (int round = 0; round < STORM_ROUNDS && !pool->stop; round++) {
		struct worker *victim = &pool->worker[w->arg + GARDENERS * (prng(&random) % (nr_watched / GARDENERS))];
		bool nested = round % 3 == 2;
		pid_t before = child;

		snprintf(outer, sizeof(outer), "storm-%d-%d", w->arg, round);
		snprintf(inner, sizeof(inner), "%s/inner", outer);
		snprintf(weight, sizeof(weight), "%d", 1 + prng(&random) % 1000);
		tried(w, MADE, cgroup_make(outer));
		if (nested)
			tried(w, MADE, cgroup_write(outer, "cgroup.subtree_control", "+cpu") && cgroup_make(inner));
		tried(w, MOVED, cgroup_enter(nested ? inner : outer, victim->pid));
		tried(w, WEIGHED, cgroup_write(outer, "cpu.weight", weight));
		child = child_in(w, nested ? inner : outer);
		/* Itself as well, and now and then the victim stays for a while. */
		if (round % 4 == 1)
			tried(w, MOVED, cgroup_enter(nested ? inner : outer, 0) && cgroup_leave(0));
		if (round % 4 == 3)
			rest(w, 20 * MS);
		tried(w, LEFT, cgroup_leave(victim->pid));
		if (nested)
			tried(w, REMOVED, cgroup_remove(inner));
		tried(w, REMOVED, cgroup_remove(outer));
		await(w, before);
		w->rounds++;
	}
	await(w, child);
}

static bool gardening(void)
{
	for (int i = nr_watched; i < pool->count; i++)
		if (!pool->worker[i].done_ns)
			return true;
	return false;
}

static bool dying(void)
{
	return cgroup_dying() > 0;
}

/* Groups without tasks: what a scheduler keeps for each it has to give back. */
static void passing_groups(struct result *r)
{
	char name[32];
	int made = 0;

	while (made < PASSING && !suite.lost) {
		snprintf(name, sizeof(name), "passing-%d", made);
		if (!cgroup_make(name)) {
			fail(r, "making a cgroup failed after %d had come and gone, ten at a time: %s", made,
			     strerror(errno));
			break;
		}
		cgroup_remove(name);
		made++;
		/* Where the kernel takes long to be rid of them, what is left is no leak. */
		if (made % AT_ONCE == 0 && !pump_while(dying, now() + DYING_S))
			break;
	}
	note(r, "cgroups_passed", made);
}

void test_cgroup_storm(struct result *r)
{
	const char *missing = cgroup_open("+cpu");
	int rounds = 0;

	r->unit = "ms";
	r->limit = STAND_LIMIT_S / MS;
	r->reason = "every task has its turn, in whatever cgroup it is and of whatever weight";
	if (missing) {
		not_here(r, "%s", missing);
		return;
	}
	nr_watched = VICTIMS_PER_CPU * suite.cpus;
	for (int i = 0; i < nr_watched; i++)
		spawn(i % 3 ? runner : sleeper, 0, ANY_CPU, 0);
	for (int i = 0; i < GARDENERS; i++)
		spawn(gardener, 0, ANY_CPU, i);
	if (!pump_while(gardening, now() + STORM_DEADLINE_S) && !suite.lost)
		fail(r, "%d rounds of making and removing cgroups are not over after %.0f s", GARDENERS * STORM_ROUNDS,
		     STORM_DEADLINE_S);
	pump_while(someone_stands, now() + 1.5 * suite.watchdog + 1);
	passing_groups(r);
	for (int i = 0; i < pool->count; i++) {
		const struct worker *w = &pool->worker[i];
		bool gardener = i >= nr_watched;

		if (gardener)
			rounds += w->rounds;
		if (gardener && w->failed)
			fail(r, "%s failed: %s", deeds[w->sample[0]], strerror(w->sample[1]));
		if (!w->rounds)
			fail(r, "task %d of %d made no progress", i + 1, pool->count);
	}
	r->figure = longest_wait() / MS;
	note(r, "cgroups_removed", rounds);
	note(r, "tasks", pool->count);
	if (r->figure > r->limit)
		fail(r, "a task waited %.0f ms for the CPU while cgroups came and went", r->figure);
	pool_stop(STAND_LIMIT_S);
	cgroup_close();
}
