// SPDX-License-Identifier: Apache-2.0
/*
 * PID 1 of a micro-VM and kernloop's agent in it: mounts what a kernel developer expects, loads the modules that the host
 * packed, and runs commands for the host over one virtio-serial port.
 *
 * The port carries frames both ways (kernloop/vm/frames.py is the other end). A frame is a type byte, a zero byte, a job
 * number (u16) and a length (u32), little-endian, then that many bytes:
 *
 *   guest -> host   H the release, N the notes of /sys/kernel/notes, O stdout, E stderr, X the wait status (i32),
 *                   F why a job could not start, T how many bytes of stdin it took (u32),
 *                   Z ready to be frozen (see handover.c); the restored machine then says H,
 *                   M after X: what the kernel had logged by then is printed,
 *                   Q the answer to Q, with its number, L to L, D nothing (see drain_port)
 *   host -> guest   R run (see start_job), I stdin (empty: end of file), K a signal number (i32), S power off,
 *                   P whether to keep the output of a job waiting (one byte), since nobody takes it now,
 *                   Q be at rest: nothing is sent or done until the next frame, so that a machine saved meanwhile
 *                   is saved between two frames in either direction; C is the next one, there and here,
 *                   L does the agent live? (the watchdog says it does not, see watchdog.c)
 *                   C after a restore: the time of day in nanoseconds (u64, 0: as it is) and 64 bytes of entropy;
 *                   answered with N and H
 *
 * Of a job's stdin the host may be WINDOW bytes ahead of what T frames told, no more: so much is kept for a job that
 * does not read, and one that never reads stops nobody else.
 *
 * With the host's user space as root (hostroot.c) it does the same, from there.
 *
 * When /kl/job is there, a ready R payload that came with the handed-over files, that job is run and then the machine
 * powers off: nothing that the host does can then change the guest's timing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "erst.h"
#include "handover.h"
#include "hostroot.h"
#include "printers.h"
#include "watchdog.h"

#define PORT_NAME "kernloop"
#define JOBS_MAX 64
#define WORDS_MAX 4096
#define FRAME_MAX (1 << 20)
#define CHUNK 16384
#define PIPE_PAGE 4096
#define PIPE_PAGES 256 /* _AHEAD of machine.py */
#define VIRTQUEUE_MAX_SIZE 1024 /* of QEMU's include/hw/virtio/virtio.h */
#define WINDOW (1 << 18) /* STDIN_WINDOW of frames.py */
#define TICK_MS 10 /* the longest that a kernel may have */

struct header {
	uint8_t type;
	uint8_t zero;
	uint16_t job;
	uint32_t len;
} __attribute__((packed));

struct job {
	pid_t pid; /* 0: the slot is free */
	uint16_t number;
	int in, out, err; /* our ends, -1 when closed */
	char *ahead; /* stdin that the job has not read yet, WINDOW bytes of room, NULL before the first */
	size_t begin, end; /* where in it */
	bool last; /* the host has sent all */
	bool held; /* the host has no room for output */
};

static struct job jobs[JOBS_MAX];
static int port = -1;
static unsigned long sent_pages; /* of the pipe to the host, at most */
static bool one_job; /* power off when it ends */
static struct {
	uint16_t jobs[JOBS_MAX]; /* which the host has not been told M of */
	int count;
	struct timespec since; /* the end of the last one */
} unprinted;

static void complain(const char *what)
{
	fprintf(stderr, "kernloop-init: %s: %s\n", what, strerror(errno));
}

static void __attribute__((noreturn)) power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static bool write_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= n;
	}
	return true;
}

static bool read_all(int fd, void *data, size_t len)
{
	char *at = data;

	while (len) {
		ssize_t n = read(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= n;
	}
	return true;
}

static void send_frame(char type, uint16_t number, const void *data, uint32_t len)
{
	static struct {
		struct header header;
		char data[CHUNK];
	} __attribute__((packed)) frame;
	uint32_t along = len < CHUNK ? len : CHUNK;

	frame.header = (struct header){ .type = type, .job = number, .len = len };
	memcpy(frame.data, data, along);
	if (!write_all(port, &frame, sizeof(frame.header) + along) ||
	    !write_all(port, (const char *)data + along, len - along))
		complain("writing to the host");
	sent_pages += (sizeof(frame.header) + len) / PIPE_PAGE + 1;
}

/*
 * Wait until the host has all that was sent. What does not fit into the pipe to a host that does not read, QEMU leaves in
 * the port's queue, and that is lost when the machine goes. It takes it in order: when as many more writes are in as a
 * queue holds, those before them are out.
 */
static void drain_port(void)
{
	if (sent_pages <= PIPE_PAGES)
		return;
	for (int i = 0; i < VIRTQUEUE_MAX_SIZE; i++)
		send_frame('D', 0, "", 0);
}

static void mount_all(bool host_root)
{
	static const struct {
		const char *type, *where, *options;
	} table[] = {
		{ "devtmpfs", "/dev", "" },
		{ "proc", "/proc", "" },
		{ "sysfs", "/sys", "" },
		{ "tmpfs", "/run", "mode=755" },
		{ "tmpfs", "/tmp", "" },
		{ "devpts", "/dev/pts", "" },
		{ "tmpfs", "/dev/shm", "" },
		{ "cgroup2", "/sys/fs/cgroup", "" },
		{ "bpf", "/sys/fs/bpf", "" },
		{ "debugfs", "/sys/kernel/debug", "" },
		{ "tracefs", "/sys/kernel/tracing", "" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		/* The host's own is not hidden: what lies there may be what the guest is to run. */
		if (host_root && !strcmp(table[i].where, "/tmp"))
			continue;
		mkdir(table[i].where, 0755);
		/* A kernel without one of them (ENODEV, or no such folder in sysfs) is still a kernel worth running. */
		if (mount(table[i].type, table[i].where, table[i].type, 0, table[i].options) && errno != EBUSY &&
		    errno != ENODEV && errno != ENOENT)
			complain(table[i].where);
	}
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

/* In the order of their names, which the host numbered by dependency. */
static void load_modules(void)
{
	struct dirent **entries;
	int n = scandir("/kl/modules", &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char path[512];
		int fd;

		if (entries[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/kl/modules/%s", entries[i]->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			complain(path);
		if (fd >= 0)
			close(fd);
	}
}

static void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return; /* a kernel without IPv4 */
	if (!ioctl(fd, SIOCGIFFLAGS, &request)) {
		request.ifr_flags |= IFF_UP;
		ioctl(fd, SIOCSIFFLAGS, &request);
	}
	close(fd);
}

static void open_port(void)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[512], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file))
			name[strcspn(name, "\n")] = 0;
		fclose(file);
		if (strcmp(name, PORT_NAME))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		port = open(path, O_RDWR | O_CLOEXEC);
		if (port < 0)
			complain(path);
	}
	if (dir)
		closedir(dir);
	if (port < 0) {
		fprintf(stderr, "kernloop-init: the virtio-serial port " PORT_NAME
				" is not there (VIRTIO_PCI, VIRTIO_CONSOLE?)\n");
		power_off();
	}
}

static void say_hello(void)
{
	struct utsname name;
	char notes[8192];
	ssize_t n = 0;
	int fd = open("/sys/kernel/notes", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		n = read(fd, notes, sizeof(notes));
		close(fd);
	}
	uname(&name);
	send_frame('N', 0, notes, n > 0 ? n : 0);
	send_frame('H', 0, name.release, strlen(name.release));
}

static void say_ready(void)
{
	send_frame('Z', 0, "", 0);
}

static void restored(const char *payload, uint32_t len)
{
	struct timespec now;
	uint64_t ns;

	revive_erst();
	if (len != sizeof(ns) + ENTROPY)
		power_off();
	memcpy(&ns, payload, sizeof(ns));
	now = (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
	if (ns && clock_settime(CLOCK_REALTIME, &now))
		complain("clock_settime");
	stir(payload + sizeof(ns));
	say_hello();
}

static struct job *find_job(uint16_t number)
{
	for (int i = 0; i < JOBS_MAX; i++)
		if (jobs[i].pid && jobs[i].number == number)
			return &jobs[i];
	return NULL;
}

static void refuse(uint16_t number, const char *why)
{
	send_frame('F', number, why, strlen(why));
	if (one_job)
		power_off();
}

/* The payload is NUL-terminated strings: the working directory, how many arguments, these, the environment. */
static void start_job(uint16_t number, char *payload, uint32_t len)
{
	char *words[WORDS_MAX + 2], **environment, *cwd = payload, *at = payload, *end = payload + len;
	int in[2], out[2], err[2], failed[2], n = 0, why = 0, argc;
	struct job *job = NULL;

	if (!len || end[-1])
		return refuse(number, "malformed request");
	at += strlen(at) + 1;
	argc = at < end ? atoi(at) : 0;
	if (argc < 1)
		return refuse(number, "malformed request");
	for (at += strlen(at) + 1; at < end && n < WORDS_MAX; at += strlen(at) + 1) {
		words[n++] = at;
		if (n == argc)
			words[n++] = NULL;
	}
	if (at < end)
		return refuse(number, "too many arguments");
	if (n <= argc)
		return refuse(number, "malformed request");
	words[n] = NULL;
	environment = words + argc + 1;
	for (int i = 0; i < JOBS_MAX && !job; i++)
		if (!jobs[i].pid)
			job = &jobs[i];
	if (!job)
		return refuse(number, "too many commands at once");
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(failed, O_CLOEXEC))
		return refuse(number, strerror(errno));

	pid_t pid = fork();

	if (!pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		if (!chdir(cwd)) {
			clearenv();
			for (char **variable = environment; *variable; variable++)
				putenv(*variable);
			execvp(words[0], words);
		}
		why = errno;
		write_all(failed[1], &why, sizeof(why));
		_exit(127);
	}
	why = pid < 0 ? errno : 0;
	close(in[0]);
	close(out[1]);
	close(err[1]);
	close(failed[1]);
	if (pid > 0)
		read_all(failed[0], &why, sizeof(why));
	close(failed[0]);
	if (why) {
		char text[512];

		snprintf(text, sizeof(text), "%s: %s", words[0], strerror(why));
		close(in[1]);
		close(out[0]);
		close(err[0]);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return refuse(number, text);
	}
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	*job = (struct job){ .pid = pid, .number = number, .in = in[1], .out = out[0], .err = err[0] };
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Pass on one piece of what a job wrote; false when there is none. */
static bool relay(struct job *job, int *fd, char type)
{
	char data[CHUNK];
	ssize_t n = read(*fd, data, sizeof(data));

	if (n > 0) {
		send_frame(type, job->number, data, n);
		return true;
	}
	if (n == 0)
		close_end(fd);
	return false;
}

/* What is in the pipe now, at most a pipe's worth; what a surviving grandchild goes on writing is nobody's. */
static void drain(struct job *job, int *fd, char type)
{
	int left = 0;

	if (*fd < 0 || ioctl(*fd, FIONREAD, &left))
		return;
	for (int pieces = (left + CHUNK - 1) / CHUNK; pieces > 0 && relay(job, fd, type); pieces--)
		;
}

/* So many bytes of stdin are off the host's account. */
static void took(struct job *job, uint32_t count)
{
	if (count)
		send_frame('T', job->number, &count, sizeof(count));
}

/* Nobody reads this stdin, or all of it is written: what may still come is dropped. */
static void close_stdin(struct job *job)
{
	close_end(&job->in);
	took(job, job->end - job->begin);
	free(job->ahead);
	job->ahead = NULL;
	job->begin = job->end = 0;
}

/* Hand on as much stdin as the job's pipe has room for. */
static void feed(struct job *job)
{
	while (job->begin < job->end) {
		ssize_t n = write(job->in, job->ahead + job->begin, job->end - job->begin);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			return close_stdin(job);
		job->begin += n;
		took(job, n);
	}
	job->begin = job->end = 0;
	if (job->last)
		close_stdin(job);
}

/* An I frame. False when the host does not keep to its window. */
static bool take_stdin(struct job *job, const char *data, size_t len)
{
	if (!len)
		job->last = true;
	if (job->in < 0) {
		took(job, len);
		return true;
	}
	if (job->end - job->begin + len > WINDOW)
		return false;
	if (!job->ahead)
		job->ahead = malloc(WINDOW);
	if (!job->ahead) {
		close_stdin(job);
		took(job, len);
		return true;
	}
	memmove(job->ahead, job->ahead + job->begin, job->end - job->begin);
	job->end -= job->begin;
	job->begin = 0;
	memcpy(job->ahead + job->end, data, len);
	job->end += len;
	feed(job);
	return true;
}

static void all_printed(void)
{
	for (int i = 0; i < unprinted.count; i++)
		send_frame('M', unprinted.jobs[i], "", 0);
	unprinted.count = 0;
}

/* After the end of a job. */
static void until_printed(uint16_t number)
{
	bool waits = something_logged() || unprinted.count;

	if (unprinted.count == JOBS_MAX)
		all_printed();
	unprinted.jobs[unprinted.count++] = number;
	clock_gettime(CLOCK_MONOTONIC, &unprinted.since);
	if (!waits)
		all_printed();
}

static void look_for_printed(void)
{
	struct timespec now;
	long ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = (now.tv_sec - unprinted.since.tv_sec) * 1000 + (now.tv_nsec - unprinted.since.tv_nsec) / 1000000;
	if (ms >= TICK_MS && printers_rest())
		all_printed();
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < JOBS_MAX; i++) {
			struct job *job = &jobs[i];
			int32_t code = status;

			if (job->pid != pid)
				continue;
			drain(job, &job->out, 'O');
			drain(job, &job->err, 'E');
			close_stdin(job);
			send_frame('X', job->number, &code, sizeof(code));
			close_end(&job->out);
			close_end(&job->err);
			job->pid = 0;
			if (one_job) {
				drain_port();
				power_off();
			}
			until_printed(job->number);
		}
	}
}

static void handle_frame(void)
{
	static char payload[FRAME_MAX];
	struct header header;
	struct job *job;
	int32_t number;

	if (!read_all(port, &header, sizeof(header)))
		return; /* the host end is closed: the machine is about to go */
	if (header.len > sizeof(payload) || !read_all(port, payload, header.len))
		power_off();
	job = find_job(header.job);
	switch (header.type) {
	case 'R':
		start_job(header.job, payload, header.len);
		break;
	case 'I':
		if (job && !take_stdin(job, payload, header.len))
			power_off();
		break;
	case 'K':
		memcpy(&number, payload, sizeof(number));
		if (job)
			kill(-job->pid, number);
		break;
	case 'P':
		if (job && header.len)
			job->held = payload[0];
		break;
	case 'Q':
		send_frame('Q', header.job, "", 0);
		handle_frame();
		break;
	case 'L':
		watch_again();
		send_frame('L', 0, "", 0);
		break;
	case 'C':
		restored(payload, header.len);
		break;
	case 'S':
		power_off();
	}
}

static void run_packed_job(void)
{
	static char payload[FRAME_MAX];
	int fd = open("/kl/job", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	one_job = true;
	n = read(fd, payload, sizeof(payload));
	close(fd);
	start_job(0, payload, n > 0 ? n : 0);
	if (find_job(0))
		close_stdin(find_job(0));
}

static void __attribute__((noreturn)) give_up(const char *what)
{
	complain(what);
	power_off();
}

int main(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	bool host_root = host_root_wanted();
	const char *what;
	sigset_t child;
	int child_fd;

	setenv("PATH", "/root:/bin:/sbin:/usr/bin:/usr/sbin:/usr/local/bin", 1);
	if (host_root) {
		load_modules(); /* virtiofs and overlay may be among them */
		if (!enter_host_root(&what))
			give_up(what);
	}
	mount_all(host_root);
	sethostname("kernloop", 8);
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	raise_loopback();
	if (!host_root)
		load_modules();
	else if (!furnish_host_root(&what))
		give_up(what);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	child_fd = signalfd(-1, &child, SFD_CLOEXEC);
	open_port();
	watch_over();
	remember_erst();
	remember_printers();
	freeze(say_ready);
	revive_erst();
	take_payload();
	say_hello();
	if (!host_root)
		run_packed_job();

	for (;;) {
		struct pollfd fds[2 + 3 * JOBS_MAX] = {
			{ .fd = one_job ? -1 : port, .events = POLLIN },
			{ .fd = child_fd, .events = POLLIN },
		};

		for (int i = 0; i < JOBS_MAX; i++) {
			struct job *job = &jobs[i];
			bool waits = job->pid && job->begin < job->end, heard = job->pid && !job->held;

			fds[2 + 3 * i] = (struct pollfd){ .fd = heard ? job->out : -1, .events = POLLIN };
			fds[3 + 3 * i] = (struct pollfd){ .fd = heard ? job->err : -1, .events = POLLIN };
			fds[4 + 3 * i] = (struct pollfd){ .fd = waits ? job->in : -1, .events = POLLOUT };
		}
		if (poll(fds, sizeof(fds) / sizeof(fds[0]), unprinted.count ? TICK_MS : -1) < 0)
			continue;
		if (unprinted.count)
			look_for_printed();
		for (int i = 0; i < JOBS_MAX; i++) {
			if (fds[2 + 3 * i].revents)
				relay(&jobs[i], &jobs[i].out, 'O');
			if (fds[3 + 3 * i].revents)
				relay(&jobs[i], &jobs[i].err, 'E');
			if (fds[4 + 3 * i].revents)
				feed(&jobs[i]);
		}
		if (fds[1].revents) {
			struct signalfd_siginfo info;

			read(child_fd, &info, sizeof(info));
			reap();
		}
		if (fds[0].revents & POLLIN)
			handle_frame();
	}
}
