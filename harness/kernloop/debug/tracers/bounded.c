// SPDX-License-Identifier: Apache-2.0
/*
 * bounded SECONDS MARK COMMAND [ARGS]...
 *
 * Runs COMMAND and passes its stdout on. SECONDS after MARK stood in it, or when our stdin ends, COMMAND is interrupted
 * as by Ctrl-C, and killed when it takes no notice. From MARK on it is SCHED_FIFO: no scheduler that is looked at starves
 * it. Says on stderr what ended it, and exits as it did.
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
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What is interrupted prints what it has counted. */
enum { FIFO_PRIORITY = 60, END_SECONDS = 60, MOST_MARK = 256 };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void put(const char *data, ssize_t size)
{
	while (size > 0) {
		ssize_t n = write(STDOUT_FILENO, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			exit(1);
		data += n;
		size -= n;
	}
}

static pid_t start(char **argv, int *from)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		/* Nobody is left to interrupt it when we were killed. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == 1)
			_exit(1);
		dup2(fds[1], STDOUT_FILENO);
		signal(SIGINT, SIG_DFL);
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(fds[1]);
	*from = fds[0];
	return pid;
}

/* Whether `mark` stands in the stream; it may come in two pieces. */
static bool seen(const char *mark, const char *data, size_t size)
{
	static char last[2 * MOST_MARK];
	static size_t kept;
	const size_t length = strlen(mark), head = size < MOST_MARK ? size : MOST_MARK;

	memcpy(last + kept, data, head);
	if (memmem(last, kept + head, mark, length) || memmem(data, size, mark, length))
		return true;
	if (size >= length) {
		kept = length - 1;
		memcpy(last, data + size - kept, kept);
	} else {
		const size_t all = kept + size, keep = all < length ? all : length - 1;

		memmove(last, last + all - keep, keep);
		kept = keep;
	}
	return false;
}

int main(int argc, char **argv)
{
	const struct sched_param param = { .sched_priority = FIFO_PRIORITY };
	const char *why = "itself", *mark;
	bool running = false, asked = false;
	double until = 0;
	static char data[1 << 16];
	int from, status;
	pid_t pid;

	if (argc < 4 || strlen(argv[2]) >= MOST_MARK)
		return 2;
	mark = argv[2];
	signal(SIGPIPE, SIG_IGN);
	pid = start(argv + 3, &from);
	if (pid < 0)
		return 1;
	for (;;) {
		struct pollfd fds[2] = { { .fd = from, .events = POLLIN }, { .fd = asked ? -1 : STDIN_FILENO, .events = POLLIN } };
		const double wait = until ? until - now() : 3600;
		ssize_t n;

		if (until && wait <= 0) {
			if (asked) {
				kill(pid, SIGKILL);
				why = "killed";
				until = 0;
				continue;
			}
			why = "time";
			asked = true;
			until = now() + END_SECONDS;
			kill(pid, SIGINT);
			continue;
		}
		if (poll(fds, 2, (int)(wait * 1000) + 1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents) {
			why = "asked";
			asked = true;
			until = now() + END_SECONDS;
			kill(pid, SIGINT);
		}
		if (!fds[0].revents)
			continue;
		n = read(from, data, sizeof(data));
		if (n <= 0)
			break;
		if (!running && seen(mark, data, n)) {
			running = true;
			sched_setscheduler(pid, SCHED_FIFO, &param);
			if (!asked)
				until = now() + atof(argv[1]);
		}
		put(data, n);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	fprintf(stderr, "bounded: %s\n", why);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
