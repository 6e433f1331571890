# SPDX-License-Identifier: Apache-2.0
"""Questions to a kernel's memory, each a function of a Program; all of them are names in `debug drgn`'s expressions."""
