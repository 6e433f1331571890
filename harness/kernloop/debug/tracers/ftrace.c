// SPDX-License-Identifier: Apache-2.0
/*
 * ftrace SECONDS MAX_BYTES [tracer NAME | function GLOB | tree GLOB | event SYSTEM/NAME FILTER]...
 *
 * Records in a tracefs instance of its own and writes the trace as text to stdout while it goes on, so that a guest that
 * dies keeps little back. Ends with its time, with its stdin, or before more than MAX_BYTES are written. On stderr a line
 * for each fact: "lost N", "why WORD", or "refused WHAT NAME: ERROR" for what the kernel does not take; then it exits 3.
 * Whatever ends it, and whenever, a child of it takes the instance away, and what a tree had set for the whole kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRACEFS "/sys/kernel/tracing"
#define HERE TRACEFS "/instances/kernloop-ftrace"
/* An instance has none of its own (ftrace_init_dyn_tracefs). */
#define ROOTS TRACEFS "/set_graph_function"

/* Text takes ten times the room of the events in a ring: larger ones would take minutes to be written out. */
enum { RING_KB = 1024, FIFO_PRIORITY = 60, CLEAN_TRIES = 3000, CLEAN_MS = 20, READ_MS = 100 };

static size_t written;
static bool tree;
static int alive, trace = -1;
static pid_t cleaner;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "refused instance %s: %s\n", what, strerror(errno));
	exit(1);
}

static bool write_to(const char *path, int how, const char *value)
{
	int fd, why;
	bool ok;

	fd = open(path, O_WRONLY | O_CLOEXEC | how);
	ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	why = errno;
	if (fd >= 0)
		close(fd);
	errno = why;
	return ok;
}

static bool set(const char *name, const char *value)
{
	char path[256];

	snprintf(path, sizeof(path), HERE "/%s", name);
	return write_to(path, O_APPEND, value);
}

static void must(const char *what, const char *said, const char *name, const char *value)
{
	if (set(name, value))
		return;
	fprintf(stderr, "refused %s %s: %s\n", what, said, strerror(errno));
	exit(3);
}

/* Somebody may have opened a file of the instance: it is busy until that is closed. */
static void clean(void)
{
	set("tracing_on", "0");
	set("current_tracer", "nop");
	if (tree)
		write_to(ROOTS, O_TRUNC, "\n");
	for (int i = 0; i < CLEAN_TRIES && rmdir(HERE) && errno == EBUSY; i++)
		poll(NULL, 0, CLEAN_MS);
}

static void end_cleaner(void)
{
	if (trace >= 0)
		close(trace);
	write(alive, "", 1);
	waitpid(cleaner, NULL, 0);
}

/*
 * It makes the instance as well, which takes the kernel milliseconds: who is killed meanwhile has nobody yet to clean up.
 * A process that dies closes its files one by one, and what it wrote to ROOTS counts as of then: it is waited for.
 */
static void start_cleaner(void)
{
	struct pollfd parent = { .fd = syscall(SYS_pidfd_open, getpid(), 0), .events = POLLIN };
	int until[2], made[2], error = 0;
	char byte;

	if (pipe2(until, O_CLOEXEC) || pipe2(made, O_CLOEXEC))
		die("pipe");
	cleaner = fork();
	if (cleaner < 0)
		die("fork");
	if (!cleaner) {
		setsid();
		close(until[1]);
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		/* Left by one that could not clean up; in use it cannot be removed. */
		if (mkdir(HERE, 0700) && (rmdir(HERE) || mkdir(HERE, 0700)))
			error = errno;
		write(made[1], &error, sizeof(error));
		if (error)
			_exit(1);
		if (!read(until[0], &byte, 1) && parent.fd >= 0)
			poll(&parent, 1, -1);
		clean();
		_exit(0);
	}
	close(until[0]);
	close(made[1]);
	alive = until[1];
	atexit(end_cleaner);
	if (read(made[0], &error, sizeof(error)) != sizeof(error))
		error = ECHILD;
	close(made[0]);
	if (error) {
		errno = error;
		die(error == EBUSY ? "another recording is under way" : HERE);
	}
}

/* Only a word that has ended is looked for in the write: else nobody is told of one that the kernel does not have. */
static void add_function(const char *glob)
{
	char line[256];

	snprintf(line, sizeof(line), "%s\n", glob);
	must("function", glob, "set_ftrace_filter", line);
}

static void add_root(const char *glob)
{
	char line[256];

	snprintf(line, sizeof(line), "%s\n", glob);
	if (write_to(ROOTS, O_APPEND, line))
		return;
	fprintf(stderr, "refused function %s: %s\n", glob, strerror(errno));
	exit(3);
}

/* Somebody else's roots are not ours to clear. Without any the file says "#### all functions enabled ####". */
static bool roots_are_free(void)
{
	FILE *f = fopen(ROOTS, "re");
	int first = f ? fgetc(f) : '#';

	if (f)
		fclose(f);
	return first == '#';
}

static void show(const char *path)
{
	char line[256];
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f))
		fputs(line, stderr);
	if (f)
		fclose(f);
}

static void add_event(const char *event, const char *filter)
{
	char path[256];

	if (*filter) {
		snprintf(path, sizeof(path), "events/%s/filter", event);
		if (!set(path, filter)) {
			/* It has the expression, a mark below it, and what is wrong there. */
			snprintf(path, sizeof(path), HERE "/events/%s/filter", event);
			show(path);
			fprintf(stderr, "refused filter %s: %s\n", event, strerror(EINVAL));
			exit(3);
		}
	}
	snprintf(path, sizeof(path), "events/%s/enable", event);
	must("event", event, path, "1");
}

static void drain(int pipe, size_t most)
{
	static char text[1 << 16];
	ssize_t n;

	while (written < most && (n = read(pipe, text, sizeof(text))) > 0) {
		for (ssize_t done = 0, got; done < n; done += got) {
			got = write(STDOUT_FILENO, text + done, n - done);
			if (got < 0 && errno != EINTR)
				exit(1);
			got = got < 0 ? 0 : got;
		}
		written += n;
	}
}

static const char *record(int pipe, double until, size_t most)
{
	struct pollfd end = { .fd = STDIN_FILENO, .events = POLLIN };

	for (;;) {
		double left = until - now();

		if (left <= 0)
			return "time";
		if (written >= most)
			return "size";
		/*
		 * By the time, not by the pipe: one of all CPUs has no watermark (ring_buffer_poll_wait), and each event that is
		 * sent on makes more.
		 */
		if (poll(&end, 1, left * 1000 < READ_MS ? (int)(left * 1000) + 1 : READ_MS) < 0 && errno != EINTR)
			die("poll");
		if (end.revents)
			return "asked";
		drain(pipe, most);
	}
}

/* What a ring overwrote before it was read, and what came while it could not be written. */
static unsigned long lost(void)
{
	const long cpus = sysconf(_SC_NPROCESSORS_CONF);
	unsigned long sum = 0;

	for (long i = 0; i < cpus; i++) {
		char path[128], line[128];
		unsigned long n;
		FILE *f;

		snprintf(path, sizeof(path), HERE "/per_cpu/cpu%ld/stats", i);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "overrun: %lu", &n) == 1 || sscanf(line, "dropped events: %lu", &n) == 1)
				sum += n;
		if (f)
			fclose(f);
	}
	return sum;
}

int main(int argc, char **argv)
{
	const struct sched_param param = { .sched_priority = FIFO_PRIORITY };
	const char *tracer = "nop", *why;
	char word[32];
	size_t most;

	if (argc < 3)
		return 2;
	most = strtoull(argv[2], NULL, 10);
	signal(SIGPIPE, SIG_IGN);
	/* No scheduler that is looked at starves it. */
	sched_setscheduler(0, SCHED_FIFO, &param);
	for (int i = 3; i < argc; i++)
		tree |= !strcmp(argv[i], "tree");
	if (tree && !roots_are_free()) {
		errno = EBUSY;
		die("set_graph_function is in use");
	}
	start_cleaner();
	snprintf(word, sizeof(word), "%d", RING_KB);
	if (!set("tracing_on", "0") || !set("buffer_size_kb", word))
		die("cannot be set up");
	/* What reads the trace is no part of it. */
	snprintf(word, sizeof(word), "%d", getpid());
	set("set_event_notrace_pid", word);
	set("set_ftrace_notrace_pid", word);
	for (int i = 3; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "tracer"))
			tracer = argv[i + 1];
		else if (!strcmp(argv[i], "function"))
			add_function(argv[i + 1]);
		else if (!strcmp(argv[i], "tree"))
			add_root(argv[i + 1]);
		else if (!strcmp(argv[i], "event") && i + 2 < argc)
			add_event(argv[i + 1], argv[i + 2]), i++;
		else
			return 2;
	}
	must("tracer", tracer, "current_tracer", tracer);
	/* Options of a tracer are there when it is; an older kernel has fewer. */
	set("trace_options", "funcgraph-abstime");
	set("trace_options", "funcgraph-proc");
	set("trace_options", "funcgraph-tail");
	trace = open(HERE "/trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (trace < 0)
		die("trace_pipe");
	must("instance", "tracing_on", "tracing_on", "1");
	fprintf(stderr, "on\n");
	why = record(trace, now() + atof(argv[1]), most);
	set("tracing_on", "0");
	drain(trace, most);
	fprintf(stderr, "lost %lu\nwhy %s\n", lost(), why);
	return 0;
}
