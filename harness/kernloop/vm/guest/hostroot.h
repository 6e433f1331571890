/* SPDX-License-Identifier: Apache-2.0 */
/* The host's user space as this guest's root (kernloop/vm/vng.py is the other end). */
#ifndef KERNLOOP_HOSTROOT_H
#define KERNLOOP_HOSTROOT_H

#include <stdbool.h>

/* Whether the kernel's command line asks for it. */
bool host_root_wanted(void);

/* Leave the initramfs for the host's root, read-only, with all writes going to memory. False, with errno, and *what. */
bool enter_host_root(const char **what);

/* What needs /proc and /run: shared folders, the kernel's modules, limits. False, with errno, and *what. */
bool furnish_host_root(const char **what);

#endif
