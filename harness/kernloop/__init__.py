# SPDX-License-Identifier: Apache-2.0
"""kernloop: the kernel-development loop for coding agents and the people beside them."""

__version__ = "0.1.0"
