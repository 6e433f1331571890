// SPDX-License-Identifier: Apache-2.0
/* partial: only those who asked for SCHED_EXT belong to the scheduler, whoever they were before. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

enum { POLICY_EXT = 7, FLIPS = 4, PROGRESS_DEADLINE_S = 2 };

/* /proc/PID/sched has "ext.enabled   :   1" (kernel/sched/debug.c); -1 when it does not say. */
static int ext_enabled(pid_t pid)
{
	char path[64], line[160];
	int enabled = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/sched", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "ext.enabled", 11) && strchr(line, ':'))
			enabled = atoi(strchr(line, ':') + 1);
	if (file)
		fclose(file);
	return enabled;
}

/* Half begin as SCHED_EXT, and children are what their parent is; then the policy is asked for and given back. */
static void asker(struct worker *w)
{
	const struct sched_param param = { 0 };
	int status;
	pid_t child;

	for (int flip = 0; flip <= FLIPS; flip++) {
		int policy = (flip + w->arg) % 2 ? SCHED_OTHER : POLICY_EXT;

		if (sched_setscheduler(0, policy, &param)) {
			w->sample[0] = errno;
			w->failed = true;
			policy = SCHED_OTHER;
		}
		if (ext_enabled(getpid()) != (policy == POLICY_EXT))
			w->sample[1 + (policy == POLICY_EXT)]++;
		child = fork();
		if (!child)
			_exit(ext_enabled(getpid()) != (policy == POLICY_EXT));
		if (child < 0 || waitpid(child, &status, 0) != child)
			w->failed = true;
		else if (status)
			w->sample[1 + (policy == POLICY_EXT)]++;
	}
	/* Fair tasks come before those of SCHED_EXT, so together they must leave something. */
	while (!pool->stop) {
		burn(w, 2 * MS);
		w->rounds++;
		rest(w, 6 * MS);
	}
}

static bool someone_has_not_run(void)
{
	for (int i = 0; i < pool->count; i++)
		if (!pool->worker[i].rounds)
			return true;
	return false;
}

/* All tasks there are, kernel threads too: how many does the scheduler have without being asked, or not have? */
static void survey(int *taken, int *refused, int *seen)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);
		int policy = pid ? sched_getscheduler(pid) : -1, enabled = policy < 0 ? -1 : ext_enabled(pid);

		if (enabled < 0)
			continue;
		++*seen;
		policy &= ~SCHED_RESET_ON_FORK;
		*taken += enabled && policy != POLICY_EXT;
		*refused += !enabled && policy == POLICY_EXT;
	}
	if (dir)
		closedir(dir);
}

/* PID 1 was there before the scheduler: it asks, is asked for, and gives it back. */
static int ask_for_init(int *refused)
{
	const struct sched_param param = { 0 };
	int error = 0;

	if (sched_setscheduler(1, POLICY_EXT, &param))
		error = errno;
	else
		*refused += ext_enabled(1) != 1;
	sched_setscheduler(1, SCHED_OTHER, &param);
	return error;
}

void test_partial(struct result *r)
{
	int taken = 0, refused = 0, seen = 0, error = 0;

	r->unit = "tasks";
	r->limit = 0;
	r->reason = "a partial scheduler has the tasks of policy SCHED_EXT, and no other";
	if (ext_enabled(getpid()) < 0) {
		not_here(r, "/proc/PID/sched does not tell ext.enabled");
		return;
	}
	for (int i = 0; i < 2 * suite.cpus; i++)
		spawn(asker, 0, ANY_CPU, i & 1);
	if (!pump_while(someone_has_not_run, now() + PROGRESS_DEADLINE_S) && !suite.lost) {
		pump_while(someone_has_not_run, now() + 1.5 * suite.watchdog + 1);
		fail(r, "a task that changes between SCHED_EXT and SCHED_OTHER did not run for %d s",
		     PROGRESS_DEADLINE_S);
	}
	survey(&taken, &refused, &seen);
	error = ask_for_init(&refused);
	for (int i = 0; i < pool->count; i++) {
		taken += pool->worker[i].sample[1];
		refused += pool->worker[i].sample[2];
		if (pool->worker[i].failed)
			error = pool->worker[i].sample[0];
	}
	r->figure = taken + refused;
	note(r, "tasks_seen", seen);
	note(r, "taken_unasked", taken);
	note(r, "asked_in_vain", refused);
	if (error)
		fail(r, "a task that asks for SCHED_EXT is refused: %s", strerror(error));
	if (taken)
		fail(r, "the scheduler took %d tasks that did not ask for SCHED_EXT", taken);
	if (refused)
		fail(r, "%d SCHED_EXT tasks were not the scheduler's", refused);
}
