// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"
#define OURS ROOT "/kernloop"

/* A task that has exited leaves its group a moment after its parent was told (kernel/cgroup/cgroup.c). */
enum { REMOVE_TRIES = 500, REMOVE_PAUSE_NS = 10 * 1000 * 1000 };

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), saved;
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	saved = errno;
	if (fd >= 0)
		close(fd);
	errno = saved;
	return ok;
}

static bool enter(const char *procs, pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	return write_file(procs, text);
}

static void place(char *buf, size_t size, const char *path, const char *file)
{
	snprintf(buf, size, OURS "%s%s%s%s", *path ? "/" : "", path, *file ? "/" : "", file);
}

const char *cgroup_open(const char *controllers)
{
	if (access(ROOT "/cgroup.controllers", F_OK) && mount("cgroup2", ROOT, "cgroup2", 0, NULL))
		return "the kernel has no cgroup2";
	if (!write_file(ROOT "/cgroup.subtree_control", controllers))
		return "the kernel lacks a cgroup controller that the test needs";
	if (mkdir(OURS, 0755) && errno != EEXIST)
		return "no cgroup can be made";
	if (!write_file(OURS "/cgroup.subtree_control", controllers))
		return "cgroup controllers cannot be switched on";
	return NULL;
}

bool cgroup_make(const char *path)
{
	char full[256];

	place(full, sizeof(full), path, "");
	return !mkdir(full, 0755);
}

static bool remove_group(const char *full)
{
	const struct timespec pause = { .tv_nsec = REMOVE_PAUSE_NS };

	for (int i = 0; i < REMOVE_TRIES; i++) {
		if (!rmdir(full))
			return true;
		if (errno != EBUSY)
			return false;
		nanosleep(&pause, NULL);
	}
	return false;
}

bool cgroup_remove(const char *path)
{
	char full[256];

	place(full, sizeof(full), path, "");
	return remove_group(full);
}

bool cgroup_gone(const char *path)
{
	char full[256];

	place(full, sizeof(full), path, "");
	return access(full, F_OK) != 0;
}

int cgroup_dying(void)
{
	static const char field[] = "nr_dying_descendants ";
	char text[128], *found;
	int fd = open(OURS "/cgroup.stat", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

	if (fd >= 0)
		close(fd);
	text[size > 0 ? size : 0] = '\0';
	found = strstr(text, field);
	return found ? atoi(found + strlen(field)) : 0;
}

bool cgroup_write(const char *path, const char *file, const char *text)
{
	char full[256];

	place(full, sizeof(full), path, file);
	return write_file(full, text);
}

bool cgroup_enter(const char *path, pid_t pid)
{
	char full[256];

	place(full, sizeof(full), path, "cgroup.procs");
	return enter(full, pid);
}

bool cgroup_leave(pid_t pid)
{
	return enter(ROOT "/cgroup.procs", pid);
}

pid_t cgroup_fork(const char *path)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	char full[256];
	pid_t pid;
	int fd, saved;

	place(full, sizeof(full), path, "");
	fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	args.cgroup = fd;
	pid = syscall(SYS_clone3, &args, sizeof(args));
	saved = errno;
	close(fd);
	errno = saved;
	return pid;
}

static void empty(const char *full)
{
	char procs[512], line[32];
	FILE *file;

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", full);
	file = fopen(procs, "re");
	while (file && fgets(line, sizeof(line), file))
		cgroup_leave(atoi(line));
	if (file)
		fclose(file);
}

static bool clear(const char *full)
{
	DIR *dir = opendir(full);
	struct dirent *entry;
	bool ok = true;

	while (dir && (entry = readdir(dir))) {
		char inner[512];

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", full, entry->d_name);
		ok &= clear(inner);
	}
	if (dir)
		closedir(dir);
	empty(full);
	return remove_group(full) && ok;
}

bool cgroup_close(void)
{
	return access(OURS, F_OK) || clear(OURS);
}
