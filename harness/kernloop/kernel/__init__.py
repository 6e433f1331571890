# SPDX-License-Identifier: Apache-2.0
"""Kernels by reference, and what is known of each: release, build-id, config, BTF, modules, source."""
