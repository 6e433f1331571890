# SPDX-License-Identifier: Apache-2.0
"""The only door to the host: processes, downloads, caches, what this machine has and lacks."""
