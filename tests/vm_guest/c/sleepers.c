// SPDX-License-Identifier: Apache-2.0
/* Two processes that sleep, wake and work by turns a thousand times, and tell what the clock said at each wake-up. */
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void sleeper(uint32_t random)
{
	uint64_t hash = 14695981039346656037ull;

	for (int i = 1; i <= 1000; i++) {
		random = random * 1664525u + 1013904223u;
		const struct timespec pause = { .tv_nsec = 50000 + (random >> 8) % 5000000 };

		nanosleep(&pause, NULL);
		for (volatile uint32_t work = (random >> 12) % 20000; work; work--)
			;
		hash = (hash ^ now()) * 1099511628211ull;
		if (i % 50 == 0)
			dprintf(1, "%d %016lx %lu\n", i, hash, now());
	}
	_exit(0);
}

int main(void)
{
	for (int i = 1; i <= 2; i++)
		if (!fork())
			sleeper(i);
	while (wait(NULL) > 0)
		;
	return 0;
}
