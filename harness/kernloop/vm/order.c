// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into QEMU when a guest runs in virtual time: it makes QEMU's main thread and its vCPU thread take turns.
 *
 * With -icount and one vCPU thread two things are still left to the host: whether the main loop or the vCPU thread gets the
 * big QEMU lock first when a timer is due (each runs it in its own way, and kicks the vCPUs in its own way), and whether the
 * main loop finds all vCPUs halted before the last one has accounted what it executed (accel/tcg/icount-common.c,
 * icount_start_warp_timer). Either moves the vCPUs' time slices, and then the guest's clock.
 *
 * Here a round of the main loop is made only
 *  - while the vCPU thread waits for something to do: all vCPUs are halted or stopped; or
 *  - between two time slices, the vCPU thread standing still, when a round has no effect on the guest by itself (a vCPU is
 *    busy and no timer is due): for bottom halves that the vCPU thread scheduled, some slices later, so that they too come
 *    at the same instruction always; and for the host's own wishes (monitor, console input, signals), whenever they come.
 * And the vCPU thread stands still until the round, and the rounds that it causes, are over. Its calls for the main thread
 * are held back until then: most are for timers of other threads, with each tick, and there are none.
 *
 * With KERNLOOP_STOP_WHEN_READY in the environment the guest is also stopped in the middle of the write that tells the
 * host that it may be frozen (Z, see guest/init.c): no vCPU executes anything more, so that its snapshot, too, does not
 * depend on when the host comes to ask for it.
 *
 * QEMU exports all its symbols for its modules, among them the two hooks of its lock profiler (util/qsp.c).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define VCPU_SOURCE "tcg-accel-ops-rr.c"
#define CLOCK_VIRTUAL 1 /* QEMUClockType */
#define ALL_TIMERS -1
#define STATE_PAUSED 4 /* RunState */
#define FDS_MAX 1024
#define SLICES_MAX 16 /* that a bottom half may have to wait: a few of the guest's ticks */
#define ROUNDS_MAX 1000 /* that the main loop may cause itself: more is a loop that waits for the vCPUs */

typedef void lock_hook(void *mutex, const char *file, int line);
typedef void wait_hook(void *cond, void *mutex, const char *file, int line);

extern lock_hook *bql_mutex_lock_func __attribute__((weak));
extern wait_hook *qemu_cond_wait_func __attribute__((weak));
extern bool bql_locked(void) __attribute__((weak));
extern bool all_cpu_threads_idle(void) __attribute__((weak));
extern int64_t qemu_clock_deadline_ns_all(int clock, int attributes) __attribute__((weak));
extern int vm_stop(int state) __attribute__((weak));

static lock_hook *real_lock;
static wait_hook *real_wait;
static int (*real_ppoll)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
static int (*real_broadcast)(pthread_cond_t *);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
/* Under `turn`. */
static bool in_round; /* the main thread makes one */
static bool handed; /* the vCPU thread stands still for one */
static _Atomic(void *) parked; /* the condition that the vCPU thread waits on and that nobody has signalled */
static bool wakes_main[FDS_MAX]; /* the descriptors it waits for; written while the vCPU thread stands still */
static atomic_bool is_eventfd[FDS_MAX];
static atomic_bool wished; /* by the main thread, awake: a round */
/* The vCPU thread's own. */
static int held[FDS_MAX]; /* the descriptors it has called the main thread by */
static int n_held;
static int slices; /* since the first of these calls */
static bool stop_when_ready;
static __thread bool is_vcpus;

static const uint64_t call = 1; /* what event_notifier_set() writes */

static void __attribute__((noreturn)) give_up(const char *what)
{
	fprintf(stderr, "kernloop: this QEMU cannot be made repeatable: %s\n", what);
	_exit(1);
}

static void *next(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (!found)
		give_up(name);
	return found;
}

static bool is_main(void)
{
	static __thread int known;

	if (!known)
		known = getpid() == syscall(SYS_gettid) ? 1 : -1;
	return known == 1;
}

static void call_main(void)
{
	while (n_held)
		real_write(held[--n_held], &call, sizeof(call));
	slices = 0;
}

/* The vCPU thread, between two time slices. */
static void hand_over(void)
{
	call_main();
	pthread_mutex_lock(&turn);
	handed = true;
	real_broadcast(&turned);
	while (handed || in_round)
		pthread_cond_wait(&turned, &turn);
	pthread_mutex_unlock(&turn);
}

static void lock_bql(void *mutex, const char *file, int line)
{
	static const char *known;

	if (file == known || strstr(file, VCPU_SOURCE)) {
		known = file;
		is_vcpus = true;
		if ((wished || (n_held && ++slices >= SLICES_MAX)) && !all_cpu_threads_idle() &&
		    qemu_clock_deadline_ns_all(CLOCK_VIRTUAL, ALL_TIMERS) != 0)
			hand_over();
	}
	real_lock(mutex, file, line);
}

static void wait_as_vcpus(void *cond, void *mutex, const char *file, int line)
{
	call_main();
	pthread_mutex_lock(&turn);
	parked = cond;
	real_broadcast(&turned);
	pthread_mutex_unlock(&turn);
	real_wait(cond, mutex, file, line);
	pthread_mutex_lock(&turn);
	parked = NULL;
	while (in_round) {
		/* The main thread needs the lock that we have just got: QemuMutex begins with its pthread_mutex_t. */
		pthread_mutex_unlock(&turn);
		pthread_mutex_unlock(mutex);
		pthread_mutex_lock(&turn);
		while (in_round)
			pthread_cond_wait(&turned, &turn);
		pthread_mutex_unlock(&turn);
		pthread_mutex_lock(mutex);
		pthread_mutex_lock(&turn);
	}
	pthread_mutex_unlock(&turn);
}

/* It waits for the vCPU thread, which must not wait for it. */
static void wait_as_main(void *cond, void *mutex, const char *file, int line)
{
	bool was;

	pthread_mutex_lock(&turn);
	was = in_round;
	in_round = false;
	real_broadcast(&turned);
	pthread_mutex_unlock(&turn);
	real_wait(cond, mutex, file, line);
	pthread_mutex_lock(&turn);
	in_round = was;
	pthread_mutex_unlock(&turn);
}

static void wait_with_lock(void *cond, void *mutex, const char *file, int line)
{
	if (is_vcpus)
		wait_as_vcpus(cond, mutex, file, line);
	else if (is_main())
		wait_as_main(cond, mutex, file, line);
	else
		real_wait(cond, mutex, file, line);
}

/* Whoever signals the vCPU thread's condition has something for it to do. */
int pthread_cond_broadcast(pthread_cond_t *cond)
{
	if (!real_broadcast)
		real_broadcast = dlvsym(RTLD_NEXT, "pthread_cond_broadcast", "GLIBC_2.3.2");
	if (parked == cond) {
		pthread_mutex_lock(&turn);
		parked = NULL;
		pthread_mutex_unlock(&turn);
	}
	return real_broadcast(cond);
}

int eventfd(unsigned int value, int flags)
{
	int fd = syscall(SYS_eventfd2, value, flags);

	if (fd >= 0 && fd < FDS_MAX)
		is_eventfd[fd] = true;
	return fd;
}

ssize_t write(int fd, const void *data, size_t len)
{
	if (!real_write)
		real_write = next("write");
	if (!is_vcpus || fd < 0 || fd >= FDS_MAX || !wakes_main[fd] || len != sizeof(call) || memcmp(data, &call, len))
		return real_write(fd, data, len);
	for (int i = 0; i < n_held; i++)
		if (held[i] == fd)
			return len;
	held[n_held++] = fd;
	return len;
}

/* The agent's port: QEMU writes there in the vCPU thread, in the guest's own write to the device. */
ssize_t writev(int fd, const struct iovec *pieces, int n)
{
	static const char ready[8] = "Z";
	ssize_t done;

	if (!real_writev)
		real_writev = next("writev");
	done = real_writev(fd, pieces, n);
	if (stop_when_ready && is_vcpus && n == 1 && done == sizeof(ready) &&
	    !memcmp(pieces->iov_base, ready, sizeof(ready))) {
		stop_when_ready = false;
		vm_stop(STATE_PAUSED);
		slices = SLICES_MAX;
	}
	return done;
}

static void leave_round(const struct pollfd *fds, nfds_t n)
{
	pthread_mutex_lock(&turn);
	memset(wakes_main, 0, sizeof(wakes_main));
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].fd >= 0 && fds[i].fd < FDS_MAX && is_eventfd[fds[i].fd])
			wakes_main[fds[i].fd] = true;
	in_round = false;
	real_broadcast(&turned);
	pthread_mutex_unlock(&turn);
}

static void enter_round(void)
{
	pthread_mutex_lock(&turn);
	wished = true;
	while (!parked && !handed)
		pthread_cond_wait(&turned, &turn);
	wished = handed = false;
	in_round = true;
	pthread_mutex_unlock(&turn);
}

/* The main loop's wait: it is the one without the lock. */
int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	static const struct timespec at_once;
	static int rounds;
	int ready;

	if (!real_ppoll)
		real_ppoll = next("ppoll");
	if (!is_main() || bql_locked())
		return real_ppoll(fds, n, timeout, mask);

	/* What the round itself caused belongs to it. */
	if (in_round && ++rounds < ROUNDS_MAX) {
		ready = real_ppoll(fds, n, &at_once, mask);
		if (ready || (timeout && !timeout->tv_sec && !timeout->tv_nsec))
			return ready;
	}
	rounds = 0;
	leave_round(fds, n);
	real_ppoll(fds, n, timeout, mask);
	enter_round();
	return real_ppoll(fds, n, &at_once, mask);
}

static void __attribute__((constructor)) start(void)
{
	if (!&bql_mutex_lock_func || !&qemu_cond_wait_func || !bql_locked || !all_cpu_threads_idle ||
	    !qemu_clock_deadline_ns_all || !vm_stop)
		give_up("it does not export what it should");
	if (!real_write)
		real_write = next("write");
	if (!real_ppoll)
		real_ppoll = next("ppoll");
	if (!real_broadcast)
		real_broadcast = dlvsym(RTLD_NEXT, "pthread_cond_broadcast", "GLIBC_2.3.2");
	real_lock = bql_mutex_lock_func;
	real_wait = qemu_cond_wait_func;
	bql_mutex_lock_func = lock_bql;
	qemu_cond_wait_func = wait_with_lock;
	stop_when_ready = getenv("KERNLOOP_STOP_WHEN_READY");
}
