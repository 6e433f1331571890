/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of scxsuite share: the scheduler under test, the pump that waits, and test results. */
#ifndef KERNLOOP_SUITE_H
#define KERNLOOP_SUITE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MS 1e-3

/* Bigger machines get the load of this many CPUs. */
enum { MAX_CPUS = 16 };

/* What a scheduler says it does (--claims), or is seen to do: only that is demanded of it. */
enum claim {
	CLAIM_WEIGHTS = 1 << 0,	/* CPU time in proportion to p->scx.weight */
	CLAIM_CGROUPS = 1 << 1,	/* CPU time in proportion to cpu.weight */
	CLAIM_PARTIAL = 1 << 2,	/* only SCHED_EXT tasks are its own */
	CLAIM_HOTPLUG = 1 << 3,	/* lives on when a CPU goes or comes */
};

/* The scheduler under test, as the controller sees it. */
struct suite {
	int cpus;
	char **loader_argv;
	pid_t loader;		/* 0 when none runs */
	int loader_status;	/* how the last one ended, -1 by a signal */
	double enable_seconds;	/* how long the last enable took */
	double init_seconds;	/* of that, the kernel's part: ops.init, then ops.init_task for all tasks */
	double watchdog;	/* the scheduler's stall timeout T in seconds */
	bool up;		/* enabled and to stay so */
	bool lost;		/* the kernel dropped it, or it restarted itself */
	const char *unloading;	/* the end that we ask for, in the kernel's words; NULL when none is expected */
	bool dropped;		/* a "disabled" kernel message that nobody asked for */
	bool resigned;		/* that message names no error: the loader may load the scheduler anew */
	bool partial;		/* only SCHED_EXT tasks are switched */
	unsigned int claims;	/* of enum claim: what it is to be held to */
	unsigned int seen;	/* what its program looks at or has: no promise, so less is demanded */
	bool full;		/* each test in its full length */
	bool real_time;		/* the host's clock runs: it can starve the machine, and with it the test */
	bool failed;		/* a test or gate did not pass */
	double late;		/* the controller's worst delay since the test began; it is SCHED_FIFO */
	char ops[128];
	unsigned long enable_seq;
	char bad_line[256];	/* the first alarming kernel message since the last gate */
};

extern struct suite suite;

/* Why a scheduler ends, as the kernel's log says it (scx_exit_reason(), kernel/sched/ext.c); part of all but SysRq's. */
#define BY_USER "unregistered from user space"
#define BY_SYSRQ "disabled by sysrq-S"
#define BY_ANYBODY "unregistered from"

/* The status of a loader that wants to be run again: the scheduler's exit code asked for that (scxload.c). */
enum { LOADER_RESTART = 5 };

double now(void);

/*
 * The only way to wait: relays the loader's output and kernel messages until the moment comes.
 * pump() gives up, with false, as soon as an enabled scheduler is lost; drain() stays to the end.
 * pump_while() also ends when busy() turns false, and answers whether it did in time.
 */
bool pump(double until);
void drain(double until);
bool pump_while(bool (*busy)(void), double until);

/* loader.c */
void loader_nest(void);		/* the program is a nest: start it, once */
void loader_start(void);
void loader_signal(int sig);
int loader_wait_fd(int stream);	/* the stream's descriptor, -1 when closed */
void loader_read(int stream);
void loader_reap(void);
bool loader_running(void);
bool loader_stop(int sig, double seconds);

/* claims.c */
bool read_claims(char *list, unsigned int *into);	/* by commas; false for a name that there is not */
const char *missing_claim(unsigned int needs);	/* NULL when all are claimed or seen */

/* lifecycle.c */
bool start_scheduler(void);
bool stop_scheduler(double seconds);	/* on request; false when it does not go */
bool unload_scheduler(void);		/* as above, and the loader is gone as well */
void ejected(const char *after);

/* watch.c */
void watch_open(void);
int watch_kmsg_fd(void);
void watch_kmsg_read(void);
void watch_check(void);
bool scx_state(char *state, size_t size);
bool scx_is(const char *state);
unsigned long scx_enable_seq(void);
bool scx_adopt(unsigned long seq_before);
bool others_want_cpu(void);
bool gate(const char *after);
void counters(const char *after);
double steal_seconds(void);	/* what the machine's host took from it so far, by its own word */

/* stats.c: what the loader tells of itself, where it has a server for that */
void stats_begin(void);
void stats_read(const char *after);

/*
 * What a test found: `figure` is the decisive number, judged against `limit`, which is what it is for `reason`.
 * `baseline` is EEVDF's figure, taken in the same boot.
 */
enum { NOTES = 32 };
enum outcome { PASSED, FAILED, INCONCLUSIVE, SKIPPED };
struct result {
	enum outcome outcome;
	double figure;
	double limit;
	double baseline;	/* NAN without */
	const char *unit;
	const char *reason;
	char why[256];
	int notes;
	struct {
		const char *name;
		double value;
	} note[NOTES];
};

/*
 * fail() is for what the scheduler did, unclear() for what was not the test's to see, not_here() for what this kernel or
 * machine has not: the first of them counts.
 */
void fail(struct result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void unclear(struct result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void not_here(struct result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void note(struct result *r, const char *name, double value);

/*
 * A test has a run(); or begin() and, `seconds` later, end(): neighbours of this kind in the table run at once, so their
 * loads must not disturb each other. Each looks at its own workers only.
 *
 * Before the load baseline() measures EEVDF, where a limit is a ratio. When a test has failed, the scheduler is taken
 * out and the test is run on EEVDF: what that fails as well is no fault of the scheduler. With a baseline() it is then
 * measured again, and the test repeated: scheduler and EEVDF have had their turns alternately.
 */
struct test {
	const char *name;
	void (*run)(struct result *r);
	void (*begin)(void);
	void (*end)(struct result *r);
	double seconds;
	double (*baseline)(void);
	const char *baseline_unit;
	unsigned int needs;	/* claims without which it is skipped */
	bool no_control;	/* it is about loading, or what EEVDF has not: no comparison */
};

/* run.c */
bool run_stage(const struct test *const *stage, int count);	/* false: the suite must end */
void take_baseline(const struct test *test);

void test_idle(struct result *r);
void test_saturation(struct result *r);
double baseline_fork(void);
void test_fork(struct result *r);
void test_affinity(struct result *r);
void test_cpuset(struct result *r);
double baseline_cgroup_weights(void);
void test_cgroup_weights(struct result *r);
void test_cgroup_storm(struct result *r);
void test_leak(struct result *r);
void test_partial(struct result *r);
void test_hotplug(struct result *r);
double baseline_wakeup(void);
void test_wakeup(struct result *r);
void test_fairness(struct result *r);
double baseline_sleeper(void);
void test_sleeper(struct result *r);
void test_conserve(struct result *r);
void begin_kthreads(void);
void end_kthreads(struct result *r);
void begin_policies(void);
void end_policies(struct result *r);
void begin_flips(void);
void end_flips(struct result *r);
void test_rtdl(struct result *r);
void test_starvation(struct result *r);
void test_reload(struct result *r);

#endif
