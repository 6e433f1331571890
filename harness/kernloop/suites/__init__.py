# SPDX-License-Identifier: Apache-2.0
"""The kernel's own tests, built for a kernel, run in a guest and judged: kselftest and KUnit."""
