// SPDX-License-Identifier: Apache-2.0
/*
 * scxload OBJ.bpf.o [TIMEOUT_MS]: a nest of loaders, each of which loads, attaches and watches the scheduler in OBJ. Its
 * stall time-out is TIMEOUT_MS; without, what it says, but 5000 at most.
 *
 * The nest reads the running kernel's BTF once: 5 MB, more work than all the rest of a load. For each byte on stdin, a
 * socket, it forks a loader, a child of its own parent, and answers with the pid. It ends with the socket, a loader on
 * SIGINT or SIGTERM.
 *
 * A skeleton-based loader is compiled with its scheduler. This one does the same work (SCX_OPS_OPEN, LOAD and
 * ATTACH of tools/sched_ext/include/scx) from the object's BTF, so that one binary serves every object.
 *
 * A loader's events on stdout: unusable, open, load-failed, attach-failed, attached, then exit (from the scheduler's
 * user_exit_info), gone (the kernel dropped a scheduler that records none) or detached (on request, none recorded).
 * libbpf's and the verifier's text goes to stderr.
 * Exit status: 0 ended with a kind below 1024, 1 ejected, 2 unusable, 3 load failed, 4 attach failed.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "scxload.h"

#define SYSFS "/sys/kernel/sched_ext/"

enum { EXIT_EJECTED = 1, EXIT_UNUSABLE, EXIT_LOAD, EXIT_ATTACH, EXIT_RESTART };
enum { KIND_ERROR = 1024, DUMP_LEN_DEFAULT = 32768, TIMEOUT_MS = 5000, POLL_S = 1 };
enum { ACTION_SHIFT = 48, ACTION_RESTART = 1 };

static volatile sig_atomic_t stop_requested;

/* A scheduler's user_exit_info: where it lives and where its members are (headers of different age differ). */
struct uei {
	const struct btf_type *type;
	const char *base;
	const char *dump;
	size_t dump_len;
	char dump_section[128];
};

struct scheduler {
	struct bpf_object *obj;
	const struct btf *btf;
	const struct btf *kernel;	/* until the object is loaded */
	struct constants constants;
	struct var ops;
	struct bpf_map *ops_map;
	struct var uei_var;
	struct uei uei;
	uint64_t timeout_ms;		/* 0: the scheduler's own, within bounds */
	char name[128];
};

/*
 * libbpf reads the kernel's BTF by this name for each object, and frees it. The linker takes this definition before
 * libbpf's (sched/programs.py): it parts with what was read already. The other name is an alias of libbpf's own.
 */
static struct btf *spare_kernel_btf;

struct btf *btf__load_vmlinux_btf(void)
{
	struct btf *btf = spare_kernel_btf;

	spare_kernel_btf = NULL;
	return btf ? btf : libbpf_find_kernel_btf();
}

static void on_signal(int sig)
{
	(void)sig;
	stop_requested = 1;
}

void unusable(const char *format, ...)
{
	char why[512];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	fprintf(stderr, "scxload: %s\n", why);
	json_open("unusable");
	json_str("why", why);
	json_close();
	exit(EXIT_UNUSABLE);
}

/* The bytes behind a variable, NULL when there are fewer than needed. */
static void *var_bytes(const struct scheduler *s, const struct var *var, size_t need)
{
	struct bpf_map *map = bpf_object__find_map_by_name(s->obj, var->section);
	size_t size = 0;
	char *base = map ? bpf_map__initial_value(map, &size) : NULL;

	return base && var->offset + need <= size ? base + var->offset : NULL;
}

static bool find_ops(const struct var *var, void *ctx)
{
	struct scheduler *s = ctx;
	const char *type = btf__name_by_offset(s->btf, var->type->name_off);

	if (!strstr(var->section, ".struct_ops") || (strcmp(type, "sched_ext_ops") && strcmp(type, "sched_ext_ops_cid")))
		return false;
	if (s->ops.name)
		unusable("several schedulers in one object: %s and %s", s->ops.name, var->name);
	s->ops = *var;
	return false;
}

static bool find_uei(const struct var *var, void *ctx)
{
	struct scheduler *s = ctx;

	if (strncmp(var->section, ".data", 5) || !btf_is_struct(var->type) ||
	    strcmp(btf__name_by_offset(s->btf, var->type->name_off), "user_exit_info"))
		return false;
	s->uei_var = *var;
	return true;
}

/* __SCX_X holds the running kernel's SCX_X, 0 where it has none (as the macros do). */
static bool fill_enum(const struct var *var, void *ctx)
{
	struct scheduler *s = ctx;
	void *at;

	if (strncmp(var->section, ".rodata", 7) || strncmp(var->name, "__SCX_", 6) || !btf_is_int(var->type) ||
	    var->type->size > sizeof(uint64_t))
		return false;
	at = var_bytes(s, var, var->type->size);
	for (size_t i = 0; at && i < s->constants.count; i++)
		if (!strcmp(s->constants.list[i].name, var->name + 2))
			memcpy(at, &s->constants.list[i].value, var->type->size);
	return false;
}

static bool fill_dump_len(const struct var *var, void *ctx)
{
	struct scheduler *s = ctx;
	char name[128];
	uint32_t len = s->uei.dump_len;
	void *at;

	snprintf(name, sizeof(name), "%s_dump_len", s->uei_var.name);
	if (strncmp(var->section, ".rodata", 7) || strcmp(var->name, name))
		return false;
	at = var_bytes(s, var, sizeof(len));
	if (at)
		memcpy(at, &len, sizeof(len));
	return true;
}

/* Integer members of the ops, by name: absent ones read as 0. */
static uint64_t ops_get(const struct scheduler *s, const char *name)
{
	const struct btf_member *m = member(s->btf, s->ops.type, name);
	const struct btf_type *t = m ? strip(s->btf, m->type) : NULL;
	const char *base = bpf_map__initial_value(s->ops_map, NULL);
	uint64_t value = 0;

	if (t && t->size <= sizeof(value))
		memcpy(&value, base + m->offset / 8, t->size);
	return value;
}

static void ops_set(const struct scheduler *s, const char *name, uint64_t value)
{
	const struct btf_member *m = member(s->btf, s->ops.type, name);
	const struct btf_type *t = m ? strip(s->btf, m->type) : NULL;
	char *base = bpf_map__initial_value(s->ops_map, NULL);

	if (t && t->size <= sizeof(value))
		memcpy(base + m->offset / 8, &value, t->size);
}

/* Members that the running kernel lacks must be zero, or libbpf refuses the object. */
static void clear_unknown_members(const struct scheduler *s)
{
	const char *type_name = btf__name_by_offset(s->btf, s->ops.type->name_off);
	int id = btf__find_by_name_kind(s->kernel, type_name, BTF_KIND_STRUCT);
	const struct btf_type *known = id < 0 ? NULL : btf__type_by_id(s->kernel, id);
	char *base = bpf_map__initial_value(s->ops_map, NULL);

	if (!known)
		unusable("the kernel has no struct %s", type_name);
	for (__u32 i = 0; i < btf_vlen(s->ops.type); i++) {
		const struct btf_member *m = &btf_members(s->ops.type)[i];
		const char *name = btf__name_by_offset(s->btf, m->name_off);
		long size = btf__resolve_size(s->btf, m->type);
		static const char zero[256];

		if (size <= 0 || size > (long)sizeof(zero) || member(s->kernel, known, name) ||
		    !memcmp(base + m->offset / 8, zero, size))
			continue;
		fprintf(stderr, "scxload: the kernel has no ops.%s, cleared\n", name);
		memset(base + m->offset / 8, 0, size);
	}
}

static bool read_line(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return n > 0;
}

static void prepare(struct scheduler *s)
{
	const struct btf_member *name;
	uint64_t asked;
	char text[32];

	each_var(s->btf, find_ops, s);
	s->ops_map = s->ops.name ? bpf_object__find_map_by_name(s->obj, s->ops.name) : NULL;
	if (!s->ops_map || bpf_map__type(s->ops_map) != BPF_MAP_TYPE_STRUCT_OPS)
		unusable("no sched_ext_ops in the object");
	if (strcmp(s->ops.section, ".struct_ops.link"))
		unusable("%s is in section %s: a scheduler needs .struct_ops.link", s->ops.name, s->ops.section);
	name = member(s->btf, s->ops.type, "name");
	if (name)
		snprintf(s->name, sizeof(s->name), "%s",
			 (char *)bpf_map__initial_value(s->ops_map, NULL) + name->offset / 8);

	asked = ops_get(s, "timeout_ms");
	if (s->timeout_ms || !asked || asked > TIMEOUT_MS)
		ops_set(s, "timeout_ms", s->timeout_ms ? s->timeout_ms : TIMEOUT_MS);
	if (read_line(SYSFS "hotplug_seq", text, sizeof(text)))
		ops_set(s, "hotplug_seq", strtoull(text, NULL, 10));
	clear_unknown_members(s);
	each_var(s->btf, fill_enum, s);

	each_var(s->btf, find_uei, s);
	if (s->uei_var.name) {
		struct bpf_map *dump;

		s->uei.type = s->uei_var.type;
		s->uei.dump_len = ops_get(s, "exit_dump_len");
		if (!s->uei.dump_len)
			s->uei.dump_len = DUMP_LEN_DEFAULT;
		snprintf(s->uei.dump_section, sizeof(s->uei.dump_section), ".data.%s_dump", s->uei_var.name);
		dump = bpf_object__find_map_by_name(s->obj, s->uei.dump_section);
		if (!dump || bpf_map__set_value_size(dump, s->uei.dump_len))
			s->uei.dump_len = 0;
		each_var(s->btf, fill_dump_len, s);
	}

	json_open("open");
	json_str("ops", s->name);
	json_uint("timeout_ms", ops_get(s, "timeout_ms"));
	json_uint("asked_timeout_ms", asked);
	json_uint("flags", ops_get(s, "flags"));
	json_bool("uei", s->uei_var.name);
	json_close();
}

/* Programs beside the ops (tracepoints, timers' helpers) are tied to the scheduler, then attached as a skeleton does. */
static int attach_other_programs(struct scheduler *s, bool associate)
{
	struct bpf_program *prog;

	bpf_object__for_each_program(prog, s->obj) {
		if (bpf_program__type(prog) == BPF_PROG_TYPE_STRUCT_OPS || !bpf_program__autoload(prog))
			continue;
		if (associate) {
			int err = bpf_program__assoc_struct_ops(prog, s->ops_map, NULL);

			if (err)
				fprintf(stderr, "scxload: %s not associated with %s: %d\n", bpf_program__name(prog),
					s->name, err);
		} else if (bpf_program__autoattach(prog) && !bpf_program__attach(prog) && errno != EOPNOTSUPP) {
			return -errno;
		}
	}
	return 0;
}

static const void *uei_at(const struct scheduler *s, const char *name)
{
	const struct btf_member *m = s->uei.base ? member(s->btf, s->uei.type, name) : NULL;

	return m ? s->uei.base + m->offset / 8 : NULL;
}

static int uei_kind(const struct scheduler *s)
{
	const int *kind = uei_at(s, "kind");

	/* The BPF side writes kind last, with a barrier; so read it first, with one. */
	return kind ? __atomic_load_n(kind, __ATOMIC_ACQUIRE) : 0;
}

/* The other end of ops.exit() asks for it, as the kernel does when a CPU goes (scx/user_exit_info.h). */
static bool wants_restart(const struct scheduler *s)
{
	const uint64_t *code = uei_at(s, "exit_code");

	return code && *code >> ACTION_SHIFT & ACTION_RESTART;
}

static void json_text(const char *key, const char *text, size_t size)
{
	json_mem(key, text ? text : "", text ? strnlen(text, size) : 0);
}

static void report_exit(const struct scheduler *s)
{
	const int64_t *code = uei_at(s, "exit_code");
	const int32_t *cpu = uei_at(s, "exit_cpu");
	const struct btf_member *reason = member(s->btf, s->uei.type, "reason");
	const struct btf_member *msg = member(s->btf, s->uei.type, "msg");

	json_open("exit");
	json_int("kind", uei_kind(s));
	json_int("code", code ? *code : 0);
	json_text("reason", uei_at(s, "reason"), reason ? btf__resolve_size(s->btf, reason->type) : 0);
	json_text("msg", uei_at(s, "msg"), msg ? btf__resolve_size(s->btf, msg->type) : 0);
	json_int("exit_cpu", cpu ? *cpu : -1);
	json_text("dump", s->uei.dump, s->uei.dump_len);
	json_close();
}

static bool still_ours(const struct scheduler *s)
{
	char state[32], ops[128];

	return read_line(SYSFS "state", state, sizeof(state)) && strcmp(state, "disabled") &&
	       read_line(SYSFS "root/ops", ops, sizeof(ops)) && !strcmp(ops, s->name);
}

static int watch(const struct scheduler *s, struct bpf_link *link)
{
	/* The kernel says on its log when it drops a scheduler: that wakes us, the time-out is for a log that is full. */
	struct pollfd kmsg = { .fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC), .events = POLLIN };
	const struct timespec longest = { .tv_sec = POLL_S };
	sigset_t unblocked;
	bool gone = false;

	sigemptyset(&unblocked);

	while (!stop_requested && !uei_kind(s) && !gone) {
		lseek(kmsg.fd, 0, SEEK_END);
		gone = !still_ours(s);
		if (!gone)
			ppoll(&kmsg, 1, &longest, &unblocked);
	}
	/* Closing the link unregisters synchronously: ops.exit has run when this returns. */
	bpf_link__destroy(link);
	if (uei_kind(s)) {
		report_exit(s);
		if (uei_kind(s) >= KIND_ERROR)
			return EXIT_EJECTED;
		return wants_restart(s) ? EXIT_RESTART : 0;
	}
	json_open(gone ? "gone" : "detached");
	json_close();
	return gone ? EXIT_EJECTED : 0;
}

static int run(struct scheduler *s)
{
	struct bpf_link *link;
	size_t size;
	int err = bpf_object__load(s->obj);

	if (err) {
		json_open("load-failed");
		json_int("errno", -err);
		json_close();
		return EXIT_LOAD;
	}
	if (s->uei_var.name) {
		struct bpf_map *dump = bpf_object__find_map_by_name(s->obj, s->uei.dump_section);

		s->uei.base = var_bytes(s, &s->uei_var, s->uei.type->size);
		s->uei.dump = dump && s->uei.dump_len ? bpf_map__initial_value(dump, &size) : NULL;
	}
	attach_other_programs(s, true);
	err = attach_other_programs(s, false);
	link = err ? NULL : bpf_map__attach_struct_ops(s->ops_map);
	if (!link) {
		json_open("attach-failed");
		json_int("errno", err ? -err : errno);
		json_close();
		if (uei_kind(s))
			report_exit(s);
		return EXIT_ATTACH;
	}
	json_open("attached");
	json_close();
	return watch(s, link);
}

/* Returns in each loader. */
static void hatch(void)
{
	pid_t parent = getppid(), pid;
	char word;

	do {
		if (read(STDIN_FILENO, &word, 1) != 1)
			exit(0);
		pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
		if (pid && write(STDIN_FILENO, &pid, sizeof(pid)) != sizeof(pid))
			exit(0);
	} while (pid);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	close(STDIN_FILENO);
	open("/dev/null", O_RDONLY);
}

int main(int argc, char **argv)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	const struct sigaction act = { .sa_handler = on_signal };
	struct scheduler s = { 0 };
	sigset_t stop;

	if (argc != 2 && argc != 3)
		unusable("usage: scxload OBJ.bpf.o [TIMEOUT_MS]");
	s.timeout_ms = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	s.kernel = spare_kernel_btf = libbpf_find_kernel_btf();
	if (s.kernel)
		load_constants(s.kernel, &s.constants);
	hatch();

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	/* They come while watch() waits, so that none is missed between its look and its wait. */
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	if (!s.kernel)
		unusable("no BTF of the running kernel");
	if (s.constants.truncated)
		unusable("the kernel's BTF truncates the 64-bit enumerator %s", s.constants.truncated);
	s.obj = bpf_object__open_file(argv[1], NULL);
	if (!s.obj) {
		char why[128];

		libbpf_strerror(errno, why, sizeof(why));
		unusable("cannot open %s: %s", argv[1], why);
	}
	s.btf = bpf_object__btf(s.obj);
	if (!s.btf)
		unusable("%s has no BTF", argv[1]);
	prepare(&s);
	return run(&s);
}
