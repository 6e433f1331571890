// SPDX-License-Identifier: Apache-2.0
/*
 * scxsuite [--nest] [--tests a,b,...] -- LOADER ARGS...
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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "json.h"
#include "suite.h"
#include "workers.h"

/*
 * The loader's words and the kernel's messages wake the controller. Without any it looks at the scheduler's state after
 * POLL_MAX_MS, and at what the workers have done after POLL_MS. The kernel's default watchdog holds for loaders that
 * don't tell theirs.
 */
enum { POLL_MS = 50, POLL_MAX_MS = 1000, FIFO_PRIORITY = 50 };
enum { KERNEL_WATCHDOG_S = 30, ENABLE_S = 120, EJECTED_LOADER_S = 10, REAP_S = 10 };

struct suite suite = { .watchdog = KERNEL_WATCHDOG_S };

static const struct test tests[] = {
	{ "idle", NULL, NULL, test_idle },
	{ "saturation", NULL, NULL, test_saturation },
	{ "fork-storm", baseline_fork, "tasks/s", test_fork },
	{ "affinity-storm", NULL, NULL, test_affinity },
	{ "wakeup", baseline_wakeup, "us", test_wakeup },
	{ "reload", NULL, NULL, test_reload },
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
	double left = (until - now()) * 1000;
	int ms = left <= 0 ? 0 : left > longest_ms ? longest_ms : (int)left + 1;

	poll(fds, 3, ms);
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

void fail(struct result *r, const char *format, ...)
{
	va_list args;

	/* The first reason is nearest to the cause. */
	if (!r->ok)
		return;
	r->ok = false;
	va_start(args, format);
	vsnprintf(r->why, sizeof(r->why), format, args);
	va_end(args);
}

void note(struct result *r, const char *name, double value)
{
	if (r->notes == NOTES)
		return;
	r->note[r->notes].name = name;
	r->note[r->notes++].value = value;
}

static void report(const char *name, const struct result *r, double seconds)
{
	json_open("test");
	json_str("name", name);
	json_bool("ok", r->ok);
	json_num("figure", r->figure);
	json_str("unit", r->unit);
	json_num("limit", r->limit);
	json_num("seconds", seconds);
	json_str("why", r->why);
	json_begin("detail", '{');
	for (int i = 0; i < r->notes; i++)
		json_num(r->note[i].name, r->note[i].value);
	json_end('}');
	json_close();
}

/*
 * With the test's tasks gone the machine comes to rest, unless the scheduler has lost a task: that one stays runnable.
 * Then wait for the watchdog, whose dump tells which and where.
 */
static void settle(struct result *r)
{
	if (!suite.lost && !pump_while(others_want_cpu, now() + 1.5 * suite.watchdog + 1))
		fail(r, "a task wants the CPU and does not get it, on an idle machine");
}

static bool run_test(const struct test *test)
{
	struct result r = { .ok = true, .unit = "" };
	double begin = now();
	int left;
	bool ok;

	json_open("test-start");
	json_str("name", test->name);
	json_close();
	test->run(&r);
	left = pool_stop(REAP_S);
	if (left)
		fail(&r, "%d killed tasks could not die within %d s: the scheduler does not run them", left, REAP_S);
	settle(&r);
	/* Why it was lost stands in the loader's last words; an unrelated figure must not hide it. */
	if (suite.lost) {
		r.ok = true;
		fail(&r, "the scheduler was ejected or restarted during the test");
	}
	report(test->name, &r, now() - begin);
	ok = gate(test->name) && r.ok;
	counters(test->name);
	return ok;
}

static void ejected(const char *after)
{
	char state[32] = "unknown";

	scx_state(state, sizeof(state));
	json_open("ejected");
	json_str("after", after);
	json_str("state", state);
	json_close();

	/* Loaders print the dump and exit; some restart the scheduler instead, and say nothing. */
	suite.up = false;
	if (pump_while(loader_running, now() + EJECTED_LOADER_S))
		return;
	if (scx_is("enabled") && scx_enable_seq() != suite.enable_seq) {
		json_open("restarted");
		json_uint("enable_seq", scx_enable_seq());
		json_close();
	}
	suite.unloading = true;
	loader_stop(SIGKILL, EJECTED_LOADER_S);
}

static unsigned long seq_before;

static bool enabling(void)
{
	return !suite.dropped && loader_running() && !scx_adopt(seq_before);
}

bool start_scheduler(void)
{
	double begin = now();

	seq_before = scx_enable_seq();
	suite.up = suite.lost = suite.dropped = suite.unloading = false;
	loader_start();
	pump_while(enabling, begin + ENABLE_S);
	suite.enable_seconds = now() - begin;
	if (suite.up && !suite.dropped) {
		json_open("enabled");
		json_str("ops", suite.ops);
		json_num("seconds", suite.enable_seconds);
		json_uint("enable_seq", suite.enable_seq);
		json_bool("partial", suite.partial);
		json_close();
		return true;
	}
	if (suite.dropped || suite.up) {
		ejected("enable");
		return false;
	}
	json_open("not-enabled");
	json_str("why", loader_running() ? "not enabled in time" : "the loader ended before the scheduler was enabled");
	json_close();
	suite.unloading = true;
	if (loader_running())
		loader_stop(SIGINT, EJECTED_LOADER_S);
	return false;
}

static bool scheduler_there(void)
{
	return !scx_is("disabled");
}

bool stop_scheduler(double seconds)
{
	suite.unloading = true;
	suite.up = false;
	loader_signal(SIGINT);
	return pump_while(scheduler_there, now() + seconds);
}

static bool run_suite(bool nest)
{
	bool ok;

	for (int i = 0; i < NR_TESTS; i++) {
		if (!selected[i] || !tests[i].baseline)
			continue;
		json_open("baseline");
		json_str("name", tests[i].name);
		json_num("figure", tests[i].baseline());
		json_str("unit", tests[i].baseline_unit);
		json_close();
	}
	if (nest)
		loader_nest();
	if (!start_scheduler())
		return false;
	ok = gate("enable");
	for (int i = 0; i < NR_TESTS; i++) {
		if (!selected[i])
			continue;
		ok &= run_test(&tests[i]);
		if (suite.lost)
			ejected(tests[i].name);
		else if (!suite.up && loader_running())
			loader_stop(SIGINT, EJECTED_LOADER_S);
		if (suite.lost || !suite.up)
			return false;
	}
	if (!stop_scheduler(EJECTED_LOADER_S))
		ok = false;
	return loader_stop(0, EJECTED_LOADER_S) && ok;
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
		else if (strcmp(argv[i], "--tests") || !select_tests(argv[++i]))
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
		fprintf(stderr, "usage: scxsuite [--nest] [--tests a,b,...] -- LOADER ARGS...\ntests:");
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
