// SPDX-License-Identifier: Apache-2.0
/*
 * What a scheduler's loader tells of itself: scx_stats (rust/scx_stats of github.com/sched-ext/scx), a line of JSON each
 * way over a unix socket. The connection is the session: a server counts from its first request on, so one is sent
 * when a test begins, and the answer to the next is what happened in between.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "json.h"
#include "suite.h"

#define SOCKET "/var/run/scx/root/stats"
/* The target "top", which it is without one, is all that the scheduler has. */
#define REQUEST "{\"req\":\"stats\",\"args\":{\"target\":\"top\"}}\n"

/* A server's main loop looks at its requests once a second, or sooner. */
#define ANSWER_S 3.0

static int conn = -1;
static int awaited;
static size_t used;
static char answer[256 * 1024];

static void hang_up(void)
{
	if (conn >= 0)
		close(conn);
	conn = -1;
	awaited = 0;
	used = 0;
}

static void ask(void)
{
	if (send(conn, REQUEST, strlen(REQUEST), MSG_NOSIGNAL) != (ssize_t)strlen(REQUEST))
		hang_up();
	else
		awaited++;
}

static bool call(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = SOCKET };

	conn = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (conn >= 0 && !connect(conn, (struct sockaddr *)&at, sizeof(at)))
		return true;
	hang_up();
	return false;
}

/* Reads what has come. Of several answers the last one stays; true while it has not come. */
static bool waiting(void)
{
	while (conn >= 0 && awaited) {
		ssize_t n = recv(conn, answer + used, sizeof(answer) - used, 0);
		char *end;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n <= 0) {
			hang_up();
			return false;
		}
		used += n;
		while (awaited > 1 && (end = memchr(answer, '\n', used))) {
			used -= end + 1 - answer;
			memmove(answer, end + 1, used);
			awaited--;
		}
		if (memchr(answer, '\n', used))
			awaited = 0;
	}
	return false;
}

void stats_begin(void)
{
	/* After a reload the server is another. */
	if (conn >= 0)
		ask();
	if (conn < 0 && call())
		ask();
}

void stats_read(const char *after)
{
	char *end;

	if (conn < 0)
		return;
	ask();
	if (!pump_while(waiting, now() + ANSWER_S)) {
		/* A loader that does not get to answer: what it would say later belongs to another test. */
		hang_up();
		json_open("stats");
		json_str("after", after);
		json_str("why", "the scheduler's loader did not answer on its statistics socket");
		json_close();
		return;
	}
	end = memchr(answer, '\n', used);
	if (!end)
		return;
	json_open("stats");
	json_str("after", after);
	json_mem("answer", answer, end - answer);
	json_close();
	used = 0;
}
