/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups (version 2) of a test: all lie under one of our own, which cgroup_close() takes away. */
#ifndef KERNLOOP_CGROUP_H
#define KERNLOOP_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Makes our group, with the controllers ("+cpu +cpuset") for what lies under it. NULL, or why this kernel has none: a
 * test that is told so is skipped.
 */
const char *cgroup_open(const char *controllers);
/* Whoever is still in one of our groups goes back to the root. False when a group stays (EBUSY for five seconds). */
bool cgroup_close(void);

/* Paths are relative to our group, "" is that itself. All answer false with errno. */
bool cgroup_make(const char *path);
bool cgroup_remove(const char *path);
bool cgroup_gone(const char *path);
bool cgroup_write(const char *path, const char *file, const char *text);
bool cgroup_enter(const char *path, pid_t pid);	/* pid 0: the caller */
bool cgroup_leave(pid_t pid);
/* How many of our groups are removed, and not quite gone; 0 when the kernel does not tell. */
int cgroup_dying(void);
/* Forks into a group (clone3), so that the child was never anywhere else. */
pid_t cgroup_fork(const char *path);

#endif
