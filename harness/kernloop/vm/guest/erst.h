// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's ERST, where pstore keeps what a crashing kernel said. Its state in a snapshot lacks its PCI configuration
 * (erst_vmstate in QEMU's hw/acpi/erst.c), so that after a restore nothing answers at its addresses.
 */
#pragma once

/* Note the addresses, before a snapshot is taken; without the device the two do nothing. */
void remember_erst(void);

/* Write them back, in a machine that may have been restored. */
void revive_erst(void);
