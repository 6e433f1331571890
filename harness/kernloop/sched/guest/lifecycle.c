// SPDX-License-Identifier: Apache-2.0
/* The scheduler comes, goes on request, or is thrown out. */
#include <signal.h>

#include "json.h"
#include "suite.h"

/* The verifier needs 15 billion instructions for scx_lavd: 120 s where each takes 8 ns, and more under load. */
enum { ENABLE_S = 600, EJECTED_LOADER_S = 10 };

static unsigned long seq_before;

/* The loader prints its last words and ends, or loads the scheduler anew and says nothing. */
static bool undecided(void)
{
	return loader_running() && !(scx_is("enabled") && scx_enable_seq() != suite.enable_seq);
}

/*
 * By its exit code a scheduler can ask its loader to load it anew (SCX_ECODE_ACT_RESTART, kernel/sched/ext.c), which
 * takes as long as the first time. After an error there is nothing to wait for but the dump.
 */
void ejected(const char *after)
{
	double begin = now(), longest = suite.resigned ? ENABLE_S : EJECTED_LOADER_S;
	char state[32] = "unknown";

	scx_state(state, sizeof(state));
	json_open("ejected");
	json_str("after", after);
	json_str("state", state);
	json_close();

	suite.up = false;
	pump_while(undecided, now() + longest);
	if (!loader_running())
		return;
	json_open(undecided() ? "loader-stays" : "restarted");
	json_uint("enable_seq", scx_enable_seq());
	json_num("seconds", now() - begin);
	json_close();
	suite.unloading = BY_USER;
	loader_stop(SIGKILL, EJECTED_LOADER_S);
}

static double init_began;

static bool enabling(void)
{
	if (!init_began && scx_is("enabling"))
		init_began = now();
	return !suite.dropped && loader_running() && !scx_adopt(seq_before);
}

bool start_scheduler(void)
{
	double begin = now();

	seq_before = scx_enable_seq();
	suite.up = suite.lost = suite.dropped = suite.resigned = false;
	suite.unloading = NULL;
	init_began = 0;
	loader_start();
	pump_while(enabling, begin + ENABLE_S);
	suite.enable_seconds = now() - begin;
	suite.init_seconds = init_began ? now() - init_began : 0;
	if (suite.up && !suite.dropped) {
		json_open("enabled");
		json_str("ops", suite.ops);
		json_num("seconds", suite.enable_seconds);
		json_uint("enable_seq", suite.enable_seq);
		json_bool("partial", suite.partial);
		json_close();
		return true;
	}
	if (suite.dropped || suite.up) {
		ejected("enable");
		return false;
	}
	json_open("not-enabled");
	json_str("why", loader_running() ? "not enabled in time" : "the loader ended before the scheduler was enabled");
	json_close();
	suite.unloading = BY_USER;
	if (loader_running())
		loader_stop(SIGINT, EJECTED_LOADER_S);
	return false;
}

static bool scheduler_there(void)
{
	return !scx_is("disabled");
}

bool stop_scheduler(double seconds)
{
	suite.unloading = BY_USER;
	suite.up = false;
	loader_signal(SIGINT);
	return pump_while(scheduler_there, now() + seconds);
}

bool unload_scheduler(void)
{
	bool gone = stop_scheduler(EJECTED_LOADER_S), ended = loader_stop(0, EJECTED_LOADER_S);

	if (gone && ended)
		return true;
	json_open("not-unloaded");
	json_bool("disabled", gone);
	json_bool("ended", ended);
	json_num("seconds", EJECTED_LOADER_S);
	json_close();
	return false;
}
