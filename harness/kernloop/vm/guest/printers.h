// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's threads that print to its consoles. Where a driver has one, printk() only wakes it, at the next tick
 * (nbcon_kthreads_wake() of kernel/printk/nbcon.c): what a command made the kernel say may come long after it.
 */
#pragma once

#include <stdbool.h>

/* Look for them, before a snapshot is taken. */
void remember_printers(void);

/* Whether the kernel has logged anything since the last call that such a thread may still have to print. */
bool something_logged(void);

/* Whether all of them sleep. True a tick or more after something was logged: it is printed. */
bool printers_rest(void);
