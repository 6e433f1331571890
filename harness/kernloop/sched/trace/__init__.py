# SPDX-License-Identifier: Apache-2.0
"""Scheduling recorded in a VM: ftrace's ring buffers read out, measured, and written for Perfetto."""
