// SPDX-License-Identifier: Apache-2.0
/*
 * scxsuite [--nest] [--real-time] [--full] [--claims a,b,...] [--seen a,b,...] [--tests a,b,...] -- LOADER ARGS...
 *
 * Runs a sched_ext scheduler's loader (the scheduler's own, or with --nest scxload) and puts the scheduler to the test.
 * Everything is told as JSON lines on stdout. The controller itself is SCHED_FIFO: no scheduler can starve it.
 * Exit status: 0 all passed, 1 something failed, 2 usage.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "json.h"
#include "pulse.h"
#include "suite.h"
#include "workers.h"

/*
 * The loader's words and the kernel's messages wake the controller. Without any it looks at the scheduler's state after
 * POLL_MAX_MS, and at what the workers have done after POLL_MS. The kernel's default watchdog holds for loaders that
 * don't tell theirs.
 */
enum { POLL_MS = 50, POLL_MAX_MS = 1000, FIFO_PRIORITY = 50 };
enum { KERNEL_WATCHDOG_S = 30, REAP_S = 10 };

struct suite suite = { .watchdog = KERNEL_WATCHDOG_S };

/* In the order of running: what is quick to show a broken scheduler comes first, what takes the scheduler out last. */
static const struct test tests[] = {
	{ "idle", .run = test_idle },
	{ "saturation", .run = test_saturation },
	{ "fork-storm", .run = test_fork, .baseline = baseline_fork, .baseline_unit = "tasks/s" },
	{ "affinity-storm", .run = test_affinity },
	{ "cpuset", .run = test_cpuset },
	{ "cgroup-weights", .run = test_cgroup_weights, .baseline = baseline_cgroup_weights, .baseline_unit = "ratio",
	  .needs = CLAIM_CGROUPS },
	{ "cgroup-storm", .run = test_cgroup_storm },
	{ "leak", .run = test_leak },
	{ "partial", .run = test_partial, .needs = CLAIM_PARTIAL, .no_control = true },
	{ "wakeup", .run = test_wakeup, .baseline = baseline_wakeup, .baseline_unit = "us" },
	{ "fairness", .run = test_fairness },
	{ "sleeper", .run = test_sleeper, .baseline = baseline_sleeper, .baseline_unit = "us" },
	{ "work-conservation", .run = test_conserve },
	{ "kthreads", .begin = begin_kthreads, .end = end_kthreads, .seconds = 2.5 },
	{ "policy-mix", .begin = begin_policies, .end = end_policies, .seconds = 2.5 },
	{ "policy-flips", .begin = begin_flips, .end = end_flips, .seconds = 2.5 },
	{ "rt-dl", .run = test_rtdl },
	{ "starvation", .run = test_starvation },
	{ "hotplug", .run = test_hotplug },
	{ "reload", .run = test_reload, .no_control = true },
};

enum { NR_TESTS = sizeof(tests) / sizeof(tests[0]) };

static bool selected[NR_TESTS];

double now(void)
{
	return clock_ns() / 1e9;
}

static void relay(double until, int longest_ms)
{
	struct pollfd fds[3] = {
		{ .fd = loader_wait_fd(0), .events = POLLIN },
		{ .fd = loader_wait_fd(1), .events = POLLIN },
		{ .fd = watch_kmsg_fd(), .events = POLLIN },
	};
	double left = (until - now()) * 1000, began;
	int ms = left <= 0 ? 0 : left > longest_ms ? longest_ms : (int)left + 1;

	began = now();
	if (!poll(fds, 3, ms) && now() - began - ms * MS > suite.late)
		suite.late = now() - began - ms * MS;
	for (int i = 0; i < 2; i++)
		if (fds[i].revents)
			loader_read(i);
	watch_kmsg_read();
	watch_check();
	loader_reap();
}

bool pump(double until)
{
	do
		relay(until, POLL_MAX_MS);
	while (!suite.lost && now() < until);
	return !suite.lost;
}

void drain(double until)
{
	do
		relay(until, POLL_MAX_MS);
	while (now() < until);
}

bool pump_while(bool (*busy)(void), double until)
{
	bool was_lost = suite.lost, still;

	while ((still = busy()) && now() < until && suite.lost == was_lost)
		relay(until, POLL_MS);
	return !still;
}

/* The next tests that run at once: one with a run(), or all neighbours without. Answers how many table rows they are. */
static int next_stage(int first, const struct test **stage, int *count)
{
	int i = first;

	*count = 0;
	do
		if (selected[i])
			stage[(*count)++] = &tests[i];
	while (++i < NR_TESTS && !tests[first].run && !tests[i].run);
	return i - first;
}

static bool run_suite(bool nest)
{
	const struct test *stage[NR_TESTS];
	int count;

	for (int i = 0; i < NR_TESTS; i++)
		if (selected[i] && tests[i].baseline && !missing_claim(tests[i].needs))
			take_baseline(&tests[i]);
	if (nest)
		loader_nest();
	if (!start_scheduler())
		return false;
	gate("enable");
	suite.bad_line[0] = 0;
	for (int i = 0; i < NR_TESTS;) {
		i += next_stage(i, stage, &count);
		if (!run_stage(stage, count))
			return false;
	}
	return unload_scheduler() && !suite.failed;
}

static bool select_tests(char *list)
{
	char *name;

	memset(selected, 0, sizeof(selected));
	while ((name = strsep(&list, ","))) {
		int i = 0;

		while (i < NR_TESTS && strcmp(tests[i].name, name))
			i++;
		if (i == NR_TESTS)
			return false;
		selected[i] = true;
	}
	return true;
}

static bool parse(int argc, char **argv, bool *nest)
{
	memset(selected, true, sizeof(selected));
	for (int i = 1; i + 1 < argc; i++) {
		if (!strcmp(argv[i], "--")) {
			suite.loader_argv = &argv[i + 1];
			return true;
		}
		if (!strcmp(argv[i], "--nest"))
			*nest = true;
		else if (!strcmp(argv[i], "--real-time"))
			suite.real_time = true;
		else if (!strcmp(argv[i], "--full"))
			suite.full = true;
		else if (!strcmp(argv[i], "--claims") ? !read_claims(argv[++i], &suite.claims) :
			 !strcmp(argv[i], "--seen") ? !read_claims(argv[++i], &suite.seen) :
			 strcmp(argv[i], "--tests") || !select_tests(argv[++i]))
			return false;
	}
	return false;
}

int main(int argc, char **argv)
{
	const struct sched_param param = { .sched_priority = FIFO_PRIORITY };
	const struct rlimit memory = { RLIM_INFINITY, RLIM_INFINITY }, files = { 65536, 65536 };
	bool nest = false, ok;

	if (!parse(argc, argv, &nest)) {
		fprintf(stderr, "usage: scxsuite [--nest] [--real-time] [--full] [--claims a,b,...] [--seen a,b,...] "
				"[--tests a,b,...] -- LOADER ARGS...\ntests:");
		for (int i = 0; i < NR_TESTS; i++)
			fprintf(stderr, " %s", tests[i].name);
		fputc('\n', stderr);
		return 2;
	}
	setrlimit(RLIMIT_MEMLOCK, &memory);
	setrlimit(RLIMIT_NOFILE, &files);
	/* Orphans of a workload come back here instead of outliving it. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param))
		perror("scxsuite: SCHED_FIFO");
	suite.cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (suite.cpus > MAX_CPUS)
		suite.cpus = MAX_CPUS;
	pool_open();
	pulse_open();
	watch_open();

	json_open("start");
	json_int("cpus", suite.cpus);
	json_begin("tests", '[');
	for (int i = 0; i < NR_TESTS; i++)
		if (selected[i])
			json_str(NULL, tests[i].name);
	json_end(']');
	json_close();

	ok = run_suite(nest);
	pool_stop(REAP_S);
	drain(now() + 0.2);
	json_open("done");
	json_bool("ok", ok);
	json_close();
	return !ok;
}
