# SPDX-License-Identifier: Apache-2.0
"""Looking into a kernel that has crashed or hangs, after the fact or by a debugger."""
