// SPDX-License-Identifier: Apache-2.0
/*
 * socketed PROGRAM ARGUMENTS...: run PROGRAM with one socket as its stdin and stdout, and connect that with ours.
 *
 * dropbear -i wants the socket that inetd would give it; the agent's commands have pipes. One process for each direction,
 * so that neither can keep the other from going on. Ends as PROGRAM ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static bool copy(int from, int to)
{
	char data[1 << 16];
	ssize_t n;

	while ((n = read(from, data, sizeof(data))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		for (ssize_t done = 0, part; done < n; done += part) {
			part = write(to, data + done, n - done);
			if (part < 0 && errno != EINTR)
				return false;
			if (part < 0)
				part = 0;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	int ends[2], status;
	pid_t program, feeder;

	if (argc < 2 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
		perror("socketed");
		return 125;
	}
	program = fork();
	if (!program) {
		dup2(ends[1], 0);
		dup2(ends[1], 1);
		execv(argv[1], argv + 1);
		perror(argv[1]);
		_exit(127);
	}
	close(ends[1]);
	feeder = fork();
	if (!feeder) {
		copy(0, ends[0]);
		shutdown(ends[0], SHUT_WR);
		_exit(0);
	}
	if (program < 0 || feeder < 0) {
		perror("socketed: fork");
		return 125;
	}
	copy(ends[0], 1);
	kill(feeder, SIGKILL);
	while (waitpid(program, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
