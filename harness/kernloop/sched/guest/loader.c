// SPDX-License-Identifier: Apache-2.0
/*
 * The loader process: started in its own group, its output relayed line by line, its end reported.
 * It is a program of the scheduler's, run anew for each load, or hatched by a nest (scxload.c) that stays.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "json.h"
#include "suite.h"

/* Longer lines (scxload's dump is the longest) come in several events. */
enum { LINE_MAX_BYTES = 256 * 1024 };

static struct stream {
	const char *name;
	int fd;
	size_t used;
	char line[LINE_MAX_BYTES];
} streams[2] = { { .name = "stdout", .fd = -1 }, { .name = "stderr", .fd = -1 } };

static int nest = -1;

int loader_wait_fd(int stream)
{
	return streams[stream].fd;
}

bool loader_running(void)
{
	return suite.loader != 0;
}

static void emit(struct stream *s, size_t len)
{
	static const char open_event[] = "{\"event\":\"open\"", key[] = "\"timeout_ms\":";
	const char *at;

	json_open("loader");
	json_str("stream", s->name);
	json_mem("line", s->line, len);
	json_close();

	/* scxload says which stall timeout it set; own loaders leave the kernel's default. */
	s->line[len] = 0;
	at = strncmp(s->line, open_event, strlen(open_event)) ? NULL : strstr(s->line, key);
	if (at && s == &streams[0])
		suite.watchdog = strtod(at + strlen(key), NULL) * MS;
}

void loader_read(int stream)
{
	struct stream *s = &streams[stream];

	while (s->fd >= 0) {
		ssize_t n = read(s->fd, s->line + s->used, sizeof(s->line) - 1 - s->used);
		char *end;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			if (s->used)
				emit(s, s->used);
			s->used = 0;
			close(s->fd);
			s->fd = -1;
			return;
		}
		s->used += n;
		while ((end = memchr(s->line, '\n', s->used))) {
			size_t len = end - s->line;

			emit(s, len);
			s->used -= len + 1;
			memmove(s->line, end + 1, s->used);
		}
		if (s->used == sizeof(s->line) - 1) {
			emit(s, s->used);
			s->used = 0;
		}
	}
}

void loader_reap(void)
{
	int status;

	if (!suite.loader || waitpid(suite.loader, &status, WNOHANG) != suite.loader)
		return;
	/* Whatever it left behind in its group would keep the link, and its pipes, open. */
	kill(-suite.loader, SIGKILL);
	suite.loader = 0;
	suite.loader_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	for (int i = 0; i < 2; i++) {
		loader_read(i);
		if (streams[i].used)
			emit(&streams[i], streams[i].used);
		streams[i].used = 0;
		if (streams[i].fd >= 0 && nest < 0) {
			close(streams[i].fd);
			streams[i].fd = -1;
		}
	}
	json_open("loader-exit");
	json_int("status", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	json_int("signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	json_close();
}

static _Noreturn void cannot(const char *what)
{
	fprintf(stderr, "scxsuite: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* Runs the loader's program with its output in our streams. */
static pid_t run_program(int in)
{
	pid_t controller = getpid(), pid;
	int out[2], err[2];

	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || (pid = fork()) < 0)
		cannot("starting the loader");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != controller)
			_exit(127);
		setpgid(0, 0);
		dup2(in, 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		execv(suite.loader_argv[0], suite.loader_argv);
		dprintf(2, "scxsuite: %s: %s\n", suite.loader_argv[0], strerror(errno));
		_exit(127);
	}
	close(in);
	close(out[1]);
	close(err[1]);
	streams[0].fd = out[0];
	streams[1].fd = err[0];
	for (int i = 0; i < 2; i++)
		fcntl(streams[i].fd, F_SETFL, O_NONBLOCK);
	return pid;
}

void loader_nest(void)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		cannot("making a socket");
	run_program(ends[1]);
	nest = ends[0];
}

void loader_start(void)
{
	if (nest < 0)
		suite.loader = run_program(open("/dev/null", O_RDONLY | O_CLOEXEC));
	else if (write(nest, "", 1) != 1 || read(nest, &suite.loader, sizeof(pid_t)) != sizeof(pid_t) ||
		 suite.loader < 0)
		cannot("asking for a loader");
	/* Before anybody signals the group; a program of its own may have done it already. */
	setpgid(suite.loader, suite.loader);
}

void loader_signal(int sig)
{
	if (suite.loader)
		kill(suite.loader, sig);
}

/* Ends the loader by a signal, 0 for one that should end by itself; false when it had to be killed. */
bool loader_stop(int sig, double seconds)
{
	if (sig)
		loader_signal(sig);
	if (pump_while(loader_running, now() + seconds))
		return true;
	kill(-suite.loader, SIGKILL);
	pump_while(loader_running, now() + seconds);
	return false;
}
