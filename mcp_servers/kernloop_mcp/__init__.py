# SPDX-License-Identifier: Apache-2.0
"""MCP servers, one file each, thin over the library: `kernloop mcp SERVER` runs one over stdio."""

__all__ = ["SERVERS"]

SERVERS = ("vm", "sched", "code", "debug")
