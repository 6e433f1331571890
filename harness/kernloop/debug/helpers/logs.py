# SPDX-License-Identifier: Apache-2.0
"""The kernel's log buffer: what dmesg has, with what the console was not given."""

from __future__ import annotations

from drgn import Program
from drgn.helpers.linux.printk import get_printk_records

__all__ = ["dmesg"]


def dmesg(prog: Program, since: int = 0, count: int = 200) -> list[str]:
    """`count` lines with their seconds, the last ones, or those from sequence number `since` on."""
    records = get_printk_records(prog)
    chosen = [one for one in records if one.seq >= since][:count] if since else records[-count:]
    return [f"[{one.timestamp / 1e9:12.6f}] {one.text.decode(errors='replace')}" for one in chosen]
