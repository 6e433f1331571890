// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's watchdog (-device i6300esb), petted while any CPU of the guest can run a task: when none can, QEMU stops the
 * guest and tells the host, which then asks whether the agent answers.
 */
#pragma once

/*
 * Start the device and a thread that pets it, where the kernel has its driver; say nothing where it has not. The word
 * kernloop_watchdog=SECONDS of the kernel's command line says when it barks, 0 never.
 */
void watch_over(void);

/* The host was told of a guest that lives (it was stopped for long, without its clock): start the device anew. */
void watch_again(void);
