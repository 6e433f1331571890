// SPDX-License-Identifier: Apache-2.0
/*
 * scxtrace SECONDS MAX_BYTES [event SYSTEM/NAME | probe NAME DEFINITION]...
 *
 * Records scheduling in a tracefs instance of its own and writes frames to stdout: the texts that explain the data
 * (formats, tasks, statistics) and the ring buffers' pages as the kernel filled them. The rings are read once a second, so
 * that a guest that dies keeps little back, when they are half full, and at the end. Of probes of one name the first that
 * the kernel takes is used. Ends with its time, with its stdin, or before more than MAX_BYTES could be written.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROOT "/sys/kernel/tracing"
#define HERE ROOT "/instances/kernloop"
#define GROUP "kernloop"

/* Who had to wait while we prepared has run by then. A ring holds the busiest seconds of a CPU, and all of them no more than a part of the guest's memory. */
enum { RING_MAX_KB = 8192, RING_MIN_KB = 256, MEMORY_SHARE = 16, SETTLE_MS = 50 };
enum { CLEAN_TRIES = 500, CLEAN_MS = 20 };
enum { MAX_CPUS = 512, MAX_PAGE = 1 << 16, FIFO_PRIORITY = 60, TEXT = 1 << 20 };

/* `cpu` says whose pages follow; a text is its name, a NUL and its content. */
struct frame {
	uint8_t kind;
	uint8_t zero;
	uint16_t cpu;
	uint32_t length;
};

static int ring[MAX_CPUS], cpus;
static size_t page_size = 4096, commit_size = 8, written;
static char text[TEXT];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "scxtrace: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put(const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t n = write(STDOUT_FILENO, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			exit(1);
		at += n;
		size -= n;
		written += n;
	}
}

static void put_text(const char *name, const char *content, size_t size)
{
	const size_t head = strlen(name) + 1;
	const struct frame f = { 'T', 0, 0, head + size };

	put(&f, sizeof(f));
	put(name, head);
	put(content, size);
}

static ssize_t slurp(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, got;

	if (fd < 0)
		return -1;
	while (n < TEXT - 1 && (got = read(fd, text + n, TEXT - 1 - n)) > 0)
		n += got;
	close(fd);
	text[n] = 0;
	return n;
}

static void put_file(const char *name, const char *path)
{
	ssize_t n = slurp(path);

	if (n >= 0)
		put_text(name, text, n);
}

static bool set(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	int why = errno;

	if (fd >= 0)
		close(fd);
	errno = why;
	return ok;
}

static void remove_probes(void)
{
	char line[512];
	FILE *f = fopen(ROOT "/dynamic_events", "re");
	char *names[64];
	int n = 0;

	while (f && n < 64 && fgets(line, sizeof(line), f)) {
		char *name = strstr(line, ":" GROUP "/"), *end = name ? strchr(name, ' ') : NULL;

		if (!end)
			continue;
		*end = 0;
		if (asprintf(&names[n], "-%s", name) > 0)
			n++;
	}
	if (f)
		fclose(f);
	while (n--) {
		set(ROOT "/dynamic_events", names[n]);
		free(names[n]);
	}
}

/* A process that dies closes its files one by one: the instance is busy until the last of them. */
static void clean(void)
{
	for (int i = 0; i < CLEAN_TRIES && rmdir(HERE) && errno == EBUSY; i++)
		poll(NULL, 0, CLEAN_MS);
	remove_probes();
}

/* Whatever ends us, SIGKILL too, nothing of ours goes on in the kernel: a child waits for our end. */
static pid_t leave_cleaner(int *end)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid) {
		close(fds[0]);
		*end = fds[1];
		return pid;
	}
	setsid();
	close(fds[1]);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	if (read(fds[0], text, 1) >= 0)
		clean();
	_exit(0);
}

static void add_probe(const char *name, const char *definition)
{
	static char done[16][32];
	static int nr_done;
	char path[256];

	for (int i = 0; i < nr_done; i++)
		if (!strcmp(done[i], name))
			return;
	if (!set(ROOT "/dynamic_events", definition)) {
		fprintf(stderr, "probe %s: %s: %s\n", name, definition, strerror(errno));
		return;
	}
	snprintf(path, sizeof(path), HERE "/events/" GROUP "/%s/enable", name);
	if (!set(path, "1")) {
		fprintf(stderr, "probe %s: cannot be enabled: %s\n", name, strerror(errno));
		return;
	}
	if (nr_done < 16)
		snprintf(done[nr_done++], sizeof(done[0]), "%s", name);
	snprintf(path, sizeof(path), HERE "/events/" GROUP "/%s/format", name);
	put_file("format", path);
}

static void add_event(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), HERE "/events/%s/enable", name);
	if (!set(path, "1"))
		return;
	snprintf(path, sizeof(path), HERE "/events/%s/format", name);
	put_file("format", path);
}

static int number(const struct dirent *entry)
{
	return atoi(entry->d_name);
}

/* Of each thread one line: /proc/PID/task/TID/stat, with its process in front. */
static void put_tasks(void)
{
	DIR *all = opendir("/proc");
	struct dirent *process, *thread;
	char *lines = NULL, path[64];
	size_t size = 0;
	FILE *out = open_memstream(&lines, &size);

	while (all && out && (process = readdir(all))) {
		DIR *threads;

		if (!number(process))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task", number(process));
		threads = opendir(path);
		while (threads && (thread = readdir(threads))) {
			char stat[96];

			if (!number(thread))
				continue;
			snprintf(stat, sizeof(stat), "%s/%d/stat", path, number(thread));
			if (slurp(stat) > 0)
				fprintf(out, "%d %s", number(process), text);
		}
		if (threads)
			closedir(threads);
	}
	if (all)
		closedir(all);
	if (out) {
		fclose(out);
		put_text("tasks", lines, size);
		free(lines);
	}
}

static void put_stats(const char *prefix)
{
	for (int i = 0; i < cpus; i++) {
		char name[64], path[128];

		snprintf(name, sizeof(name), "%s/%d", prefix, i);
		snprintf(path, sizeof(path), HERE "/per_cpu/cpu%d/stats", i);
		put_file(name, path);
	}
}

static void put_state(const char *prefix)
{
	static const char *const names[] = { "state", "root/ops", "root/events", "enable_seq", "nr_rejected" };
	char name[64], path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(name, sizeof(name), "%s/%s", prefix, names[i]);
		snprintf(path, sizeof(path), "/sys/kernel/sched_ext/%s", names[i]);
		put_file(name, path);
	}
}

/* The page's header: a time stamp, then how much of the page is used (and flags: kernel/trace/ring_buffer.c). */
static size_t used_of(const char *page)
{
	uint64_t commit = 0;
	size_t used;

	memcpy(&commit, page + 8, commit_size);
	used = 8 + commit_size + (commit & 0xfffff) + (commit & (1U << 30) ? 8 : 0);
	return used < page_size ? used : page_size;
}

static void drain(int cpu)
{
	static char page[MAX_PAGE];

	while (read(ring[cpu], page, page_size) == (ssize_t)page_size) {
		const struct frame f = { 'P', 0, cpu, used_of(page) };

		put(&f, sizeof(f));
		put(page, f.length);
	}
}

static size_t open_rings(size_t max_bytes)
{
	size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / MEMORY_SHARE;
	size_t all = max_bytes / 2 < memory ? max_bytes / 2 : memory, kb;
	char value[32], path[128];

	cpus = sysconf(_SC_NPROCESSORS_CONF);
	if (cpus > MAX_CPUS)
		cpus = MAX_CPUS;
	kb = all / 1024 / cpus;
	kb = kb > RING_MAX_KB ? RING_MAX_KB : kb < RING_MIN_KB ? RING_MIN_KB : kb;
	snprintf(value, sizeof(value), "%zu", kb);
	if (!set(HERE "/buffer_size_kb", value))
		die("no memory for the ring buffers");
	/* Another page size is a choice of kernels since 6.8. */
	if (slurp(HERE "/buffer_subbuf_size_kb") > 0 && atoi(text) * 1024 <= MAX_PAGE && atoi(text))
		page_size = atoi(text) * 1024;
	for (int i = 0; i < cpus; i++) {
		snprintf(path, sizeof(path), HERE "/per_cpu/cpu%d/trace_pipe_raw", i);
		ring[i] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (ring[i] < 0)
			die(path);
	}
	return kb * 1024 * cpus;
}

static const char *record(double until, size_t left)
{
	struct pollfd fds[MAX_CPUS + 1];

	for (;;) {
		double wait = until - now();
		int ms = wait < 1 ? (int)(wait * 1000) + 1 : 1000;

		if (wait <= 0)
			return "time";
		if (written >= left)
			return "size";
		for (int i = 0; i < cpus; i++)
			fds[i] = (struct pollfd){ .fd = ring[i], .events = POLLIN };
		fds[cpus] = (struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
		if (poll(fds, cpus + 1, ms) < 0 && errno != EINTR)
			die("poll");
		for (int i = 0; i < cpus && until > now(); i++)
			drain(i);
		if (fds[cpus].revents)
			return "asked";
	}
}

static void prepare(void)
{
	struct utsname u;
	int n;

	/* Left by one that could not clean up; in use it cannot be removed. */
	if (mkdir(HERE, 0700) && (rmdir(HERE) || mkdir(HERE, 0700)))
		die(errno == EBUSY ? "another recording is under way" : HERE);
	remove_probes();
	if (!set(HERE "/tracing_on", "0") || !set(HERE "/trace_clock", "boot") || !set(HERE "/buffer_percent", "50"))
		die("the trace instance cannot be set up");
	uname(&u);
	n = snprintf(text, sizeof(text), "%s\n%s\n%s\n%s\n", u.sysname, u.release, u.version, u.machine);
	put_text("uname", text, n);
	if (slurp(HERE "/events/header_page") > 0) {
		const char *commit = strstr(text, "commit;"), *size = commit ? strstr(commit, "size:") : NULL;

		if (size && atoi(size + 5) == 4)
			commit_size = 4;
		put_text("header_page", text, strlen(text));
	}
}

int main(int argc, char **argv)
{
	const struct sched_param param = { .sched_priority = FIFO_PRIORITY };
	size_t max_bytes, rings;
	const char *why;
	int alive;
	pid_t cleaner;

	if (argc < 3)
		return 2;
	max_bytes = strtoull(argv[2], NULL, 10);
	signal(SIGPIPE, SIG_IGN);
	/* No scheduler can starve it, and no thread that it looks at. */
	sched_setscheduler(0, SCHED_FIFO, &param);
	prepare();
	cleaner = leave_cleaner(&alive);
	rings = open_rings(max_bytes);
	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "event") && i + 1 < argc)
			add_event(argv[++i]);
		else if (!strcmp(argv[i], "probe") && i + 2 < argc)
			add_probe(argv[i + 1], argv[i + 2]), i += 2;
		else
			return 2;
	}
	put_state("begin");
	poll(NULL, 0, SETTLE_MS);
	set(HERE "/tracing_on", "1");
	put_stats("begin");
	why = record(now() + atof(argv[1]), max_bytes > rings ? max_bytes - rings : 0);
	set(HERE "/tracing_on", "0");
	put_stats("end");
	for (int i = 0; i < cpus; i++) {
		drain(i);
		close(ring[i]);
	}
	put_state("end");
	put_file("kprobe_profile", ROOT "/kprobe_profile");
	put_tasks();
	put_text("why", why, strlen(why));
	close(alive);
	waitpid(cleaner, NULL, 0);
	return 0;
}
