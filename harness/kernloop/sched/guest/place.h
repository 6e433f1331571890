/* SPDX-License-Identifier: Apache-2.0 */
/* Where workers may run, and whether they do. */
#ifndef KERNLOOP_PLACE_H
#define KERNLOOP_PLACE_H

#include <stddef.h>
#include <stdint.h>

#include "workers.h"

/* The worker's mask changes between these two; what it sees meanwhile says nothing. */
void mask_begin(struct worker *w, uint64_t mask);
void mask_end(struct worker *w);
/* For worker bodies: how long after the last change is this task still outside its mask? */
void look(struct worker *w);

/* Run without and with sleeps, and look. */
void runner(struct worker *w);
void sleeper(struct worker *w);

/* As the kernel's files take them: "0,2-3" is "0,2,3" here. */
void mask_text(uint64_t mask, char *buf, size_t size);

#endif
