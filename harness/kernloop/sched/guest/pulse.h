/* SPDX-License-Identifier: Apache-2.0 */
/* What the workers live through while tests run: how long they waited, which CPUs worked when, how far each came. */
#ifndef KERNLOOP_PULSE_H
#define KERNLOOP_PULSE_H

#include <stdint.h>

#include "suite.h"

struct worker;

void pulse_open(void);
void pulse_begin(void);
/* By a worker: it waited for so long, then kept its CPU busy for so long, until `t`. */
void pulse_ran(uint64_t t, uint64_t waited_ns, uint64_t busy_ns);
/* Before the pool's workers end. */
void pulse_collect(void);
/* The event "pulse", about the tests of these names, and what scheduled them. */
void pulse_tell(const char *const *tests, int count);

#endif
