// SPDX-License-Identifier: Apache-2.0
/* What the host hands to a guest by fw_cfg: at its boot, or after it was restored from a snapshot. */
#pragma once

#include <stdbool.h>

/* When the host asks for it (opt/kernloop/freeze): be quiet, call `ready`, and wait until a restored machine goes on. */
void freeze(void (*ready)(void));

/* Take opt/kernloop/payload: entropy, and files to unpack to /. Without one all stays as it is. */
void take_payload(void);

enum { ENTROPY = 64 };

/* Mix ENTROPY bytes into the kernel's generator: all machines made from one snapshot draw the same numbers otherwise. */
void stir(const void *entropy);
