// SPDX-License-Identifier: Apache-2.0
/*
 * Tests are run, and what they say is weighed before it is told: a failure is the scheduler's only when EEVDF does
 * better in the same boot and the machine was not itself kept from running.
 */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "pulse.h"
#include "suite.h"
#include "workers.h"

enum { REAP_S = 10, LOADER_EXIT_S = 10 };

/* Of the CPU time that there was: more than this stolen, and latencies are the host's. */
#define STEAL_LIMIT 0.1
/* A SCHED_FIFO task waits for nobody. */
#define LATE_LIMIT_S 0.1

struct job {
	const struct test *test;
	struct result result;
	double seconds;
};

static void judge(struct result *r, enum outcome outcome, const char *format, va_list args)
{
	/* The first reason is nearest to the cause. */
	if (r->outcome != PASSED)
		return;
	r->outcome = outcome;
	vsnprintf(r->why, sizeof(r->why), format, args);
}

void fail(struct result *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	judge(r, FAILED, format, args);
	va_end(args);
}

void unclear(struct result *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	judge(r, INCONCLUSIVE, format, args);
	va_end(args);
}

void not_here(struct result *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	judge(r, SKIPPED, format, args);
	va_end(args);
}

void note(struct result *r, const char *name, double value)
{
	if (r->notes == NOTES)
		return;
	r->note[r->notes].name = name;
	r->note[r->notes++].value = value;
}

static void tell(const char *event, const struct job *job)
{
	static const char *const names[] = { "pass", "fail", "inconclusive", "skipped" };
	const struct result *r = &job->result;

	json_open(event);
	json_str("name", job->test->name);
	json_bool("ok", r->outcome == PASSED);
	json_str("result", names[r->outcome]);
	json_num("figure", r->figure);
	json_str("unit", r->unit);
	json_num("limit", r->limit);
	if (!isnan(r->baseline))
		json_num("baseline", r->baseline);
	json_num("seconds", job->seconds);
	json_str("reason", r->reason);
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
static bool settle(void)
{
	return suite.lost || pump_while(others_want_cpu, now() + 1.5 * suite.watchdog + 1);
}

/* Runs the jobs at once; each result holds what its test says. */
static void measure(struct job *jobs, int count)
{
	double begin = now(), seconds = 0, steal = steal_seconds();
	const char *names[count];
	bool settled;
	int left;

	suite.late = 0;
	pool->refused = 0;
	pulse_begin();
	for (int i = 0; i < count; i++) {
		const struct test *test = jobs[i].test;

		names[i] = test->name;
		jobs[i].result = (struct result){ .unit = "", .reason = "", .baseline = NAN };
		if (test->run)
			test->run(&jobs[i].result);
		else
			test->begin();
		if (test->seconds > seconds)
			seconds = test->seconds;
	}
	if (seconds)
		pump(now() + seconds);
	for (int i = 0; i < count; i++)
		if (jobs[i].test->end)
			jobs[i].test->end(&jobs[i].result);
	steal = (steal_seconds() - steal) / (suite.cpus * (now() - begin));
	left = pool_stop(REAP_S);
	pulse_tell(names, count);
	settled = settle();
	for (int i = 0; i < count; i++) {
		struct result *r = &jobs[i].result;

		jobs[i].seconds = now() - begin;
		if (pool->refused) {
			r->outcome = PASSED;
			fail(r, "a fork failed: %s: ops.init_task() refused the task", strerror(pool->refused));
		}
		if (left)
			fail(r, "%d killed tasks could not die within %d s: nobody runs them", left, REAP_S);
		if (!settled)
			fail(r, "a task wants the CPU and does not get it, on an idle machine");
		if (!suite.real_time || r->outcome != FAILED || suite.lost || (steal < STEAL_LIMIT && suite.late < LATE_LIMIT_S))
			continue;
		r->outcome = PASSED;
		unclear(r, "the machine itself was starved: %.0f %% of its time stolen, a SCHED_FIFO task %.0f ms late",
			100 * steal, suite.late / MS);
	}
}

void take_baseline(const struct test *test)
{
	double figure;

	pulse_begin();
	figure = test->baseline();
	pulse_tell(&test->name, 1);
	json_open("baseline");
	json_str("name", test->name);
	json_num("figure", figure);
	json_str("unit", test->baseline_unit);
	json_close();
}

/* What EEVDF fails as well, or the scheduler passes the second time, is not told as the scheduler's failure. */
static bool compare(struct job *jobs, int count)
{
	struct job control[count], again[count];
	bool repeat = false;

	/* Tasks that could not die under the scheduler can now. */
	if (!unload_scheduler() || pool_stop(REAP_S))
		return false;
	for (int i = 0; i < count; i++)
		control[i] = again[i] = jobs[i];
	measure(control, count);
	for (int i = 0; i < count; i++) {
		struct result *r = &jobs[i].result;

		if (r->outcome != FAILED)
			continue;
		tell("control", &control[i]);
		r->baseline = control[i].result.figure;
		if (control[i].result.outcome != PASSED) {
			r->outcome = PASSED;
			unclear(r, "EEVDF does not hold it here either: %.180s", control[i].result.why);
		} else if (jobs[i].test->baseline) {
			take_baseline(jobs[i].test);
			repeat = true;
		}
	}
	if (!start_scheduler())
		return false;
	if (!repeat)
		return true;
	measure(again, count);
	for (int i = 0; i < count; i++) {
		struct result *r = &jobs[i].result;

		if (suite.lost || r->outcome != FAILED || !jobs[i].test->baseline || again[i].result.outcome == FAILED)
			continue;
		note(r, "second_figure", again[i].result.figure);
		r->outcome = PASSED;
		unclear(r, "failed once and held once: %.200s", jobs[i].result.why);
	}
	return true;
}

static bool comparable(const struct job *jobs, int count)
{
	for (int i = 0; i < count; i++)
		if (jobs[i].result.outcome == FAILED && !jobs[i].test->no_control)
			return true;
	return false;
}

static void skip(const struct test *test, const char *claim)
{
	struct job job = { test, { .outcome = SKIPPED, .unit = "", .reason = "", .baseline = NAN }, 0 };

	snprintf(job.result.why, sizeof(job.result.why), "the scheduler does not claim %s", claim);
	tell("test", &job);
}

bool run_stage(const struct test *const *stage, int count)
{
	struct job jobs[count];
	int wanted = 0;
	bool on = true;

	for (int i = 0; i < count; i++) {
		const char *claim = missing_claim(stage[i]->needs);

		if (claim) {
			skip(stage[i], claim);
			continue;
		}
		jobs[wanted++].test = stage[i];
		json_open("test-start");
		json_str("name", stage[i]->name);
		json_close();
	}
	if (!wanted)
		return true;
	stats_begin();
	measure(jobs, wanted);
	for (int i = 0; i < wanted; i++) {
		gate(jobs[i].test->name);
		counters(jobs[i].test->name);
	}
	stats_read(jobs[wanted - 1].test->name);
	if (suite.up && !suite.lost && comparable(jobs, wanted))
		on = compare(jobs, wanted);
	/* Why it was lost stands in the loader's last words; an unrelated figure must not hide it. */
	for (int i = 0; i < wanted; i++) {
		if (suite.lost) {
			jobs[i].result.outcome = PASSED;
			fail(&jobs[i].result, "the scheduler was ejected or restarted during the test");
		}
		if (jobs[i].result.outcome != PASSED && jobs[i].result.outcome != SKIPPED)
			suite.failed = true;
		tell("test", &jobs[i]);
	}
	suite.bad_line[0] = 0;
	if (suite.lost)
		ejected(jobs[wanted - 1].test->name);
	else if (!suite.up && loader_running())
		loader_stop(SIGINT, LOADER_EXIT_S);
	return on && suite.up && !suite.lost;
}
