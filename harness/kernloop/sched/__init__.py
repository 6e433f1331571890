# SPDX-License-Identifier: Apache-2.0
"""sched_ext: compile for a target kernel, load, test in a guest, judge."""
