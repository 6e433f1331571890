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

/* The scheduler under test, as the controller sees it. */
struct suite {
	int cpus;
	char **loader_argv;
	pid_t loader;		/* 0 when none runs */
	double enable_seconds;	/* how long the last enable took */
	double watchdog;	/* the scheduler's stall timeout T in seconds */
	bool up;		/* enabled and to stay so */
	bool lost;		/* the kernel dropped it, or it restarted itself */
	bool unloading;		/* we asked for the end: its "disabled" line is expected */
	bool dropped;		/* a "disabled" kernel message that nobody asked for */
	bool partial;		/* only SCHED_EXT tasks are switched */
	char ops[128];
	unsigned long enable_seq;
	char bad_line[256];	/* the first alarming kernel message since the last gate */
};

extern struct suite suite;

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

/* scxsuite.c */
bool start_scheduler(void);
bool stop_scheduler(double seconds);	/* on request; false when it does not go */

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

/* A test's verdict: `figure` is the decisive number, judged against `limit`. */
enum { NOTES = 16 };
struct result {
	bool ok;
	double figure;
	double limit;
	const char *unit;
	char why[256];
	int notes;
	struct {
		const char *name;
		double value;
	} note[NOTES];
};

void fail(struct result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void note(struct result *r, const char *name, double value);

/* A test may first measure EEVDF in the same boot, before the scheduler is loaded. */
struct test {
	const char *name;
	double (*baseline)(void);
	const char *baseline_unit;
	void (*run)(struct result *r);
};

void test_idle(struct result *r);
void test_saturation(struct result *r);
double baseline_fork(void);
void test_fork(struct result *r);
void test_affinity(struct result *r);
double baseline_wakeup(void);
void test_wakeup(struct result *r);
void test_reload(struct result *r);

#endif
