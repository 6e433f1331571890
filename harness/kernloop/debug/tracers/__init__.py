# SPDX-License-Identifier: Apache-2.0
"""Tracers at work in a live VM, and crash on its dump: bpftrace, ftrace, crash."""
