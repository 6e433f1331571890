// SPDX-License-Identifier: Apache-2.0
/* hotplug: a CPU goes and comes back, again and again, under load. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "place.h"
#include "suite.h"
#include "workers.h"

/*
 * Each event unloads a scheduler that has no ops for it (kernel/sched/ext/ext.c, handle_hotplug): loading it again is
 * dear, so such a one sees fewer events, unless everything is asked for.
 */
enum { CYCLES = 20, CYCLES_RELOADED = 2, VICTIM = 1 };

/* Who takes longer to load sees one CPU go and come back at once. */
#define QUICK_LOAD_S 4.0

#define ONLINE "/sys/devices/system/cpu/cpu1/online"
#define PAUSE_S 0.05
#define RECOVER_S 120.0
#define PROGRESS_S 2.0
/* A dozen turns of kernel threads one after another, RCU's among them: 1.6 s with scx_central's slices of 20 ms. */
#define EVENT_LIMIT_S 10.0

static uint64_t before[MAX_WORKERS];
static unsigned long seq_before;
static int reloads;

static bool set_online(bool online)
{
	int fd = open(ONLINE, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, online ? "1" : "0", 1) == 1;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool someone_stands(void)
{
	for (int i = 0; i < pool->count; i++)
		if (pool->worker[i].rounds == before[i])
			return true;
	return false;
}

static bool recovering(void)
{
	return loader_running() && !scx_is("disabled") ? !scx_adopt(seq_before) : loader_running();
}

/* The kernel has unloaded it in good order: whoever loaded it is to do so again. */
static bool recover(struct result *r, const char *what)
{
	reloads++;
	pool->gentle = true;
	pump_while(recovering, now() + RECOVER_S);
	if (suite.up)
		suite.lost = false;
	else if (suite.dropped)
		suite.lost = true;
	else if (loader_running())
		fail(r, "not loaded again %.0f s after CPU %d went %s", RECOVER_S, VICTIM, what);
	else if (suite.loader_status != LOADER_RESTART)
		fail(r, "CPU %d went %s, the scheduler ended, and its loader did not load it again", VICTIM, what);
	else if (!start_scheduler())
		fail(r, "it could not be loaded again after CPU %d went %s", VICTIM, what);
	pool->gentle = false;
	return suite.up && !suite.lost;
}

/* `judged`: a scheduler is loaded, and has to be there afterwards as well. `blink`: it was away for a moment before. */
static bool event(struct result *r, bool online, bool judged, bool blink)
{
	const char *what = online ? "online" : "offline";
	double begin = now();

	seq_before = suite.enable_seq;
	suite.up = false;
	suite.unloading = BY_ANYBODY;
	if ((blink && !set_online(!online)) || !set_online(online)) {
		fail(r, "CPU %d cannot be taken %s: %s", VICTIM, what, strerror(errno));
		return false;
	}
	if (now() - begin > r->figure)
		r->figure = now() - begin;
	drain(now() + PAUSE_S);
	if (judged) {
		suite.up = scx_is("enabled") && scx_enable_seq() == seq_before;
		if (!suite.up && !recover(r, what))
			return false;
		suite.unloading = NULL;
	}
	if (online)
		for (int i = 0; i < pool->count; i++)
			if (pool->worker[i].arg) {
				cpu_set_t set;

				/* The kernel let it go elsewhere when its CPU went. */
				CPU_ZERO(&set);
				CPU_SET(VICTIM, &set);
				sched_setaffinity(pool->worker[i].pid, sizeof(set), &set);
			}
	for (int i = 0; i < pool->count; i++)
		before[i] = pool->worker[i].rounds;
	if (pump_while(someone_stands, now() + PROGRESS_S) || suite.lost)
		return !suite.lost;
	/* Its watchdog, and the dump, tell which task and where. */
	pump_while(someone_stands, now() + 1.5 * suite.watchdog + 1);
	if (!suite.lost)
		fail(r, "a task stands still %.0f s after CPU %d went %s", PROGRESS_S, VICTIM, what);
	return false;
}

void test_hotplug(struct result *r)
{
	bool judged = suite.up;
	int done = 0, wanted = CYCLES;

	r->unit = "s";
	r->limit = EVENT_LIMIT_S;
	r->reason = "the CPU's own threads have to run for it to go; a loader that is asked to restart does so";
	reloads = 0;
	if (suite.cpus < 2 || access(ONLINE, W_OK)) {
		not_here(r, "no CPU can be taken offline");
		return;
	}
	for (int i = 0; i < suite.cpus; i++) {
		spawn(spinner, 0, ANY_CPU, 0);
		spawn(spinner, 5, ANY_CPU, 0);
		spawn(sleeper, 0, ANY_CPU, 0);
	}
	spawn(spinner, 0, VICTIM, 1);
	spawn(sleeper, 0, VICTIM, 1);
	pump(now() + PAUSE_S);
	if (judged && !suite.full && suite.enable_seconds > QUICK_LOAD_S) {
		done = event(r, true, judged, true);
		if (reloads)
			wanted = done;
	}
	while (done < wanted && event(r, false, judged, false) && event(r, true, judged, false)) {
		done++;
		if (reloads && !suite.full)
			wanted = CYCLES_RELOADED;
	}
	if (!set_online(true))
		fail(r, "CPU %d does not come back: %s", VICTIM, strerror(errno));
	note(r, "cycles", done);
	note(r, "reloads", reloads);
	if (reloads && suite.claims & CLAIM_HOTPLUG)
		fail(r, "it claims to live on when a CPU goes, and was unloaded");
	if (r->figure > r->limit)
		fail(r, "taking CPU %d offline or online took %.1f s", VICTIM, r->figure);
}
