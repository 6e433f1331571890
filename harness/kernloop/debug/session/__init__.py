# SPDX-License-Identifier: Apache-2.0
"""An open session of drgn: a process that keeps a guest's memory, or a vmcore, open with symbols and types read."""
