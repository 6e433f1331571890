// SPDX-License-Identifier: Apache-2.0
/*
 * kthreads: kernel threads get their work done while all CPUs are wanted by user tasks. Three kinds of work that a
 * task waits for: an item for the kworker of each CPU, an RCU grace period, and the bytes of a terminal, which a
 * CPU-bound kworker takes through the line discipline (drivers/tty/tty_buffer.c, flush_to_ldisc).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "suite.h"
#include "workers.h"

enum { HOGS_PER_CPU = 2, TERMINAL_BLOCK = 512 };

#define LIMIT_S 2.0
#define PAUSE_S (100 * MS)

static struct worker *hogs[HOGS_PER_CPU * MAX_CPUS], *kworkers, *rcu, *terminal;

static void kworker_user(struct worker *w)
{
	char byte;

	while (!pool->stop) {
		/* Its read waits for schedule_on_each_cpu() (mm/vmstat.c). */
		int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);

		w->due_ns = clock_ns();
		if (fd < 0 || read(fd, &byte, 1) < 0)
			w->failed = true;
		ran(w);
		close(fd);
		w->rounds++;
		rest(w, PAUSE_S);
	}
}

static void rcu_user(struct worker *w)
{
	while (!pool->stop) {
		w->due_ns = clock_ns();
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
			w->failed = true;
		ran(w);
		w->rounds++;
		rest(w, PAUSE_S);
	}
}

/* Both ends of a new pseudo terminal, from a devpts of our own: the guest need not have one. */
static bool open_terminal(int *master, int *slave)
{
	static const char where[] = "/tmp/kl-pts";
	char path[64];
	int unlock = 0, number;

	mkdir("/tmp", 0755);
	mkdir(where, 0755);
	if (mount("kl", where, "devpts", 0, "newinstance,ptmxmode=0666"))
		return false;
	snprintf(path, sizeof(path), "%s/ptmx", where);
	*master = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
	if (*master >= 0 && !ioctl(*master, TIOCSPTLCK, &unlock) && !ioctl(*master, TIOCGPTN, &number)) {
		snprintf(path, sizeof(path), "%s/%d", where, number);
		*slave = open(path, O_RDWR | O_NOCTTY);
	}
	umount2(where, MNT_DETACH);
	return *master >= 0 && *slave >= 0;
}

/* Lines go in at one end, a kworker carries them, and are waited for at the other. The echo is read and dropped. */
static void terminal_user(struct worker *w)
{
	char block[TERMINAL_BLOCK], back[2 * TERMINAL_BLOCK];
	int master = -1, slave = -1;

	if (!open_terminal(&master, &slave)) {
		w->failed = true;
		return;
	}
	memset(block, 'x', sizeof(block));
	for (size_t i = 63; i < sizeof(block); i += 64)
		block[i] = '\n';
	while (!pool->stop) {
		size_t sent = 0, got = 0;

		w->due_ns = clock_ns();
		while (got < sizeof(block)) {
			struct pollfd there = { .fd = slave, .events = POLLIN };
			ssize_t n = sent < sizeof(block) ? write(master, block + sent, sizeof(block) - sent) : 0;

			sent += n > 0 ? n : 0;
			while (read(master, back, sizeof(back)) > 0)
				;
			if (poll(&there, 1, 100) == 1 && (n = read(slave, back, sizeof(back))) > 0)
				got += n;
		}
		ran(w);
		w->rounds++;
	}
}

void begin_kthreads(void)
{
	for (int i = 0; i < HOGS_PER_CPU * suite.cpus; i++)
		hogs[i] = spawn(spinner, 0, ANY_CPU, 0);
	kworkers = spawn(kworker_user, 0, ANY_CPU, 0);
	rcu = spawn(rcu_user, 0, ANY_CPU, 0);
	terminal = spawn(terminal_user, 0, ANY_CPU, 0);
}

static void look(struct result *r, const struct worker *w, const char *name, const char *what)
{
	double ms = worst_wait(w) / MS;

	note(r, name, ms);
	if (ms > r->figure)
		r->figure = ms;
	if (w->failed)
		unclear(r, "this guest cannot do it: %s", what);
	else if (ms > r->limit)
		fail(r, "%s took %.0f ms beside hogs", what, ms);
	else if (!w->rounds)
		fail(r, "%s was not done once", what);
}

void end_kthreads(struct result *r)
{
	r->unit = "ms";
	r->limit = LIMIT_S / MS;
	r->reason = "beside two hogs a CPU a fair turn comes within 0.1 s, and each of these waits for a few of them";
	look(r, kworkers, "kworkers_ms", "work for the kworker of each CPU");
	look(r, rcu, "rcu_ms", "an RCU grace period");
	/* A chain of many turns, the kworker's and the user's: told, not judged. It keeps that kworker busy. */
	note(r, "terminal_ms", worst_wait(terminal) / MS);
	note(r, "terminal_blocks", terminal->rounds);
	note(r, "hogs_wait_ms", longest_of(hogs, HOGS_PER_CPU * suite.cpus) / MS);
}
