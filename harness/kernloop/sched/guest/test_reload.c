// SPDX-License-Identifier: Apache-2.0
/* reload: the scheduler goes and comes back under load, and no task is left behind in either direction. */
#include <signal.h>

#include "suite.h"
#include "workers.h"

/* Loading costs CPU time (the verifier): slow loaders are reloaded less often. */
enum { RELOADS = 4, RELOADS_MIN = 1 };

#define LOADING_BUDGET_S 20.0
#define LOAD_S 0.1
#define DISABLE_LIMIT_S 5.0
#define PROGRESS_DEADLINE_S 2.0
#define LOADER_EXIT_S 10.0

static uint64_t before[MAX_WORKERS];

static bool someone_stands(void)
{
	for (int i = 0; i < pool->count; i++)
		if (pool->worker[i].rounds == before[i])
			return true;
	return false;
}

static bool all_progress(void)
{
	for (int i = 0; i < pool->count; i++)
		before[i] = pool->worker[i].rounds;
	return pump_while(someone_stands, now() + PROGRESS_DEADLINE_S);
}

static bool reload(struct result *r, double *slowest)
{
	double begin = now();

	if (!stop_scheduler(DISABLE_LIMIT_S)) {
		fail(r, "still not disabled %.0f s after SIGINT", DISABLE_LIMIT_S);
		return false;
	}
	if (now() - begin > r->figure)
		r->figure = now() - begin;
	if (!all_progress()) {
		fail(r, "a task stands still after the scheduler went");
		return false;
	}
	pool->gentle = true;
	if (!loader_stop(0, LOADER_EXIT_S)) {
		fail(r, "the loader does not end after SIGINT");
		return false;
	}
	if (!start_scheduler()) {
		fail(r, "the scheduler does not come back");
		return false;
	}
	pool->gentle = false;
	if (suite.enable_seconds > *slowest)
		*slowest = suite.enable_seconds;
	if (!all_progress() || !pump(now() + LOAD_S)) {
		fail(r, "a task stands still after the scheduler came back");
		return false;
	}
	return true;
}

void test_reload(struct result *r)
{
	int wanted = LOADING_BUDGET_S / suite.enable_seconds, done = 0;
	double slowest = 0;

	if (wanted > RELOADS)
		wanted = RELOADS;
	if (wanted < RELOADS_MIN)
		wanted = RELOADS_MIN;
	r->unit = "s";
	r->limit = DISABLE_LIMIT_S;
	for (int i = 0; i < suite.cpus + 1; i++)
		spawn(spinner, i % 2 ? 5 : 0, ANY_CPU, 0);
	pump(now() + LOAD_S);
	while (!suite.lost && done < wanted && reload(r, &slowest))
		done++;
	note(r, "reloads", done);
	note(r, "slowest_enable_s", slowest);
}
