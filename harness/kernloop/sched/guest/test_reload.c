// SPDX-License-Identifier: Apache-2.0
/* reload: the scheduler goes and comes back under load, and no task is left behind in either direction. */
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

/* Loading costs CPU time (the verifier): slow loaders are reloaded less often. */
enum { RELOADS = 3, RELOADS_FULL = 50, RELOADS_MIN = 1 };

#define LOADING_BUDGET_S 20.0
#define LOADING_BUDGET_FULL_S 400.0
#define LOAD_S 0.1
#define DISABLE_LIMIT_S 5.0
#define INIT_LIMIT_S 5.0
#define PROGRESS_DEADLINE_S 2.0
#define LOADER_EXIT_S 10.0
#define STILL_THERE_S 20.0	/* for the figure, when the limit is missed */
#define SYSRQ "/proc/sysrq-trigger"

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

static bool scheduler_there(void)
{
	return !scx_is("disabled");
}

/* The ways to end it; the loader may be gone with it, or has to see it. */
static bool by_interrupt(void)
{
	return stop_scheduler(DISABLE_LIMIT_S);
}

static bool by_kill(void)
{
	suite.unloading = BY_USER;
	suite.up = false;
	loader_signal(SIGKILL);
	return pump_while(scheduler_there, now() + DISABLE_LIMIT_S);
}

static bool by_sysrq(void)
{
	int fd = open(SYSRQ, O_WRONLY | O_CLOEXEC);
	bool sent;

	suite.unloading = BY_SYSRQ;
	suite.up = false;
	sent = fd >= 0 && write(fd, "S", 1) == 1;

	if (fd >= 0)
		close(fd);
	/* A kernel without MAGIC_SYSRQ. */
	if (!sent)
		return by_interrupt();
	return pump_while(scheduler_there, now() + DISABLE_LIMIT_S);
}

static const struct {
	const char *what;
	bool (*end)(void);
} ways[] = {
	{ "SIGKILL to the loader", by_kill },
	{ "SysRq-S", by_sysrq },
	{ "SIGINT to the loader", by_interrupt },
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static bool reload(struct result *r, int way, double *slowest)
{
	double begin = now();

	if (!ways[way].end()) {
		fail(r, "still not disabled %.0f s after %s", DISABLE_LIMIT_S, ways[way].what);
		pump_while(scheduler_there, now() + STILL_THERE_S);
		r->figure = now() - begin;
		return false;
	}
	if (now() - begin > r->figure)
		r->figure = now() - begin;
	if (!all_progress()) {
		fail(r, "a task stands still after the scheduler went by %s", ways[way].what);
		return false;
	}
	pool->gentle = true;
	if (!loader_stop(0, LOADER_EXIT_S)) {
		fail(r, "the loader does not end after %s", ways[way].what);
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
	int wanted = (suite.full ? LOADING_BUDGET_FULL_S : LOADING_BUDGET_S) / suite.enable_seconds;
	int most = suite.full ? RELOADS_FULL : RELOADS, done = 0;
	double slowest = 0, init = suite.init_seconds;

	if (wanted > most)
		wanted = most;
	if (wanted < RELOADS_MIN)
		wanted = RELOADS_MIN;
	r->unit = "s";
	r->limit = DISABLE_LIMIT_S;
	r->reason = "who ends a scheduler that misbehaves waits for the kernel to take all tasks back, as all forks do";
	for (int i = 0; i < suite.cpus + 1; i++)
		spawn(spinner, i % 2 ? 5 : 0, ANY_CPU, 0);
	pump(now() + LOAD_S);
	while (!suite.lost && done < wanted && reload(r, done % WAYS, &slowest)) {
		done++;
		if (suite.init_seconds > init)
			init = suite.init_seconds;
	}
	note(r, "reloads", done);
	note(r, "slowest_enable_s", slowest);
	note(r, "slowest_init_s", init);
	note(r, "init_limit_s", INIT_LIMIT_S);
	if (init > INIT_LIMIT_S) {
		r->figure = init;
		r->limit = INIT_LIMIT_S;
		fail(r, "ops.init() and ops.init_task() for all tasks took %.1f s: forks wait for that", init);
	}
}
