// SPDX-License-Identifier: Apache-2.0
/* What the kernel says about the scheduler: sysfs, event counters, kernel messages; and the gate over them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "suite.h"

#define SYSFS "/sys/kernel/sched_ext/"

static int kmsg = -1;

static bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	return n > 0;
}

static bool read_word(const char *path, char *buf, size_t size)
{
	bool ok = read_text(path, buf, size);

	buf[strcspn(buf, "\n")] = 0;
	return ok;
}

void watch_open(void)
{
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
}

int watch_kmsg_fd(void)
{
	return kmsg;
}

/* Kernel messages that no run should bring. The scheduler's own end is one, unless we asked for it. */
static bool alarming(const char *text)
{
	static const char *const signs[] = { "WARNING:", "BUG:", "kernel BUG at", "soft lockup", "hung task",
					     "blocked for more than", "zero slice", "Oops", "Kernel panic" };
	const char *rcu = strstr(text, "rcu");

	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++)
		if (strstr(text, signs[i]))
			return true;
	if (rcu && strstr(rcu, "stall"))
		return true;
	if (!strstr(text, "sched_ext:") || !strstr(text, "\" disabled ("))
		return false;
	if (suite.unloading && strstr(text, suite.unloading))
		return false;
	suite.dropped = true;
	suite.resigned = strstr(text, BY_ANYBODY) != NULL;
	return true;
}

void watch_kmsg_read(void)
{
	char record[8192];
	ssize_t n;

	/* EPIPE says that records were overwritten; the next read goes on behind them. */
	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		char *text;
		bool bad;

		if (n < 0)
			continue;
		record[n] = 0;
		text = strchr(record, ';');
		if (!text)
			continue;
		text++;
		text[strcspn(text, "\n")] = 0;
		bad = alarming(text);
		if (!bad && !strstr(text, "sched_ext:"))
			continue;
		json_open("kmsg");
		json_str("line", text);
		json_close();
		if (bad && !suite.bad_line[0])
			snprintf(suite.bad_line, sizeof(suite.bad_line), "%s", text);
	}
}

bool scx_state(char *state, size_t size)
{
	return read_word(SYSFS "state", state, size);
}

bool scx_is(const char *wanted)
{
	char state[32];

	return scx_state(state, sizeof(state)) && !strcmp(state, wanted);
}

unsigned long scx_enable_seq(void)
{
	char text[32];

	return read_word(SYSFS "enable_seq", text, sizeof(text)) ? strtoul(text, NULL, 10) : 0;
}

/* Takes the scheduler that is now enabled as the one under test. The sequence number rises last, so it decides. */
bool scx_adopt(unsigned long seq_before)
{
	char all[32];

	if (!scx_is("enabled") || scx_enable_seq() == seq_before ||
	    !read_word(SYSFS "root/ops", suite.ops, sizeof(suite.ops)))
		return false;
	suite.enable_seq = scx_enable_seq();
	suite.partial = read_word(SYSFS "switch_all", all, sizeof(all)) && !strcmp(all, "0");
	if (suite.partial)
		suite.claims |= CLAIM_PARTIAL;
	suite.up = true;
	return true;
}

void watch_check(void)
{
	if (suite.up && !suite.lost)
		suite.lost = !scx_is("enabled") || scx_enable_seq() != suite.enable_seq;
}

/* The fourth word of loadavg is RUNNABLE/ALL (fs/proc/loadavg.c); one of the runnable is us. */
bool others_want_cpu(void)
{
	char text[128];
	int runnable = 0;

	return read_text("/proc/loadavg", text, sizeof(text)) && sscanf(text, "%*s %*s %*s %d/", &runnable) == 1 &&
	       runnable > 1;
}

/* The eighth figure of /proc/stat's first line, in ticks (fs/proc/stat.c). */
double steal_seconds(void)
{
	char text[4096];
	unsigned long ticks;

	if (!read_text("/proc/stat", text, sizeof(text)) ||
	    sscanf(text, "cpu %*u %*u %*u %*u %*u %*u %*u %lu", &ticks) != 1)
		return 0;
	return ticks / (double)sysconf(_SC_CLK_TCK);
}

bool gate(const char *after)
{
	char state[32] = "unknown", ops[128] = "", why[512] = "";
	unsigned long seq = scx_enable_seq();

	watch_kmsg_read();
	read_word(SYSFS "root/ops", ops, sizeof(ops));
	if (!scx_state(state, sizeof(state)) || strcmp(state, "enabled"))
		snprintf(why, sizeof(why), "state is %s", state);
	else if (strcmp(ops, suite.ops))
		snprintf(why, sizeof(why), "the scheduler is %s, not %s", ops, suite.ops);
	else if (seq != suite.enable_seq)
		snprintf(why, sizeof(why), "enable_seq went from %lu to %lu: it was loaded anew", suite.enable_seq, seq);
	else if (suite.bad_line[0])
		snprintf(why, sizeof(why), "kernel message: %s", suite.bad_line);
	suite.failed |= why[0];

	json_open("gate");
	json_str("after", after);
	json_bool("ok", !why[0]);
	json_str("why", why);
	json_close();
	return !why[0];
}

void counters(const char *after)
{
	char text[4096], *rest = text, *line, rejected[32];

	if (!read_text(SYSFS "root/events", text, sizeof(text)))
		return;
	json_open("counters");
	json_str("after", after);
	if (read_word(SYSFS "nr_rejected", rejected, sizeof(rejected)))
		json_int("nr_rejected", strtoll(rejected, NULL, 10));
	json_begin("events", '{');
	while ((line = strsep(&rest, "\n"))) {
		char *space = strchr(line, ' ');

		if (!space)
			continue;
		*space = 0;
		json_int(line, strtoll(space + 1, NULL, 10));
	}
	json_end('}');
	json_close();
}
