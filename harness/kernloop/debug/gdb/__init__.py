# SPDX-License-Identifier: Apache-2.0
"""GDB at a VM that lives: an owner process that has it, and what its clients ask of it (kernloop.debug.gdb.client)."""
