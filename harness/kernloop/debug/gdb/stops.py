# SPDX-License-Identifier: Apache-2.0
"""Where a guest is to stop: breakpoints and watchpoints. One that runs is stopped for a moment to set them."""

from __future__ import annotations

import re
from typing import Any

from kernloop.debug.gdb.control import Control, text_of
from kernloop.debug.gdb.mi import Value, one_line, quoted
from kernloop.debug.gdb.process import Gdb
from kernloop.errors import UsageError

__all__ = ["Stops"]

_ACCESS = {"write": "watch", "read": "rwatch", "any": "awatch"}
_NUMBER = re.compile(r"atchpoint (\d+):")


class Stops:
    """Each operation by the name of its command."""

    def __init__(self, gdb: Gdb, control: Control) -> None:
        self._gdb = gdb
        self._control = control

    async def break_(
        self, *, where: str, condition: str = "", ignore: int = 0, temporary: bool = False, software: bool = False
    ) -> dict[str, Any]:
        """A breakpoint at a function, FILE:LINE or *ADDRESS: the CPU's own, so no code is changed, unless `software`.

        With `ignore` the first so many hits do not count.
        """
        if ignore < 0:
            raise UsageError(f"{ignore} hits to ignore", hint="0 or more")
        words = ["-break-insert"]
        words += [] if software else ["-h"]
        words += ["-t"] if temporary else []
        words += ["-c", quoted(condition)] if condition else []
        words += ["-i", str(ignore)] if ignore else []
        async with self._control.still():
            made = await self._gdb.ask(f"{' '.join(words)} -- {quoted(where)}")
        return {"breakpoint": _row(_first(made.values.get("bkpt")))}

    async def watch(self, *, expression: str, access: str = "write") -> dict[str, Any]:
        """A watchpoint: the guest stops when what the expression names is written, read, or either (`any`)."""
        if access not in _ACCESS:
            raise UsageError(f"no access {access!r}", hint=" or ".join(_ACCESS))
        async with self._control.still():
            # By address: what a local variable's name means ends with its function. MI has no word for that.
            said = await self._gdb.console(f"{_ACCESS[access]} -location {one_line(expression)}")
        found = _NUMBER.search(said)
        return {"watchpoint": int(found[1]) if found else None, "expression": expression}

    async def breakpoints(self) -> dict[str, Any]:
        """All of them, with how often each was hit."""
        self._control.must_be_there()
        table = (await self._gdb.ask("-break-list")).values.get("BreakpointTable")
        body = table.get("body") if isinstance(table, dict) else None
        rows = [one for one in body if isinstance(one, dict)] if isinstance(body, list) else []
        return {"breakpoints": [_row(row) for row in rows]}

    async def delete(self, *, numbers: list[int]) -> dict[str, Any]:
        """Some of them; all when none is named."""
        async with self._control.still():
            await self._gdb.ask(f"-break-delete {' '.join(str(int(number)) for number in numbers)}".rstrip())
        return await self.breakpoints()


# A breakpoint with several places comes as a list, the one that has the number first.
def _first(value: Value | None) -> dict[str, Value]:
    if isinstance(value, list):
        value = next((one for one in value if isinstance(one, dict)), {})
    return value if isinstance(value, dict) else {}


def _row(row: dict[str, Value]) -> dict[str, Any]:
    number, places = text_of(row.get("number")), row.get("locations")
    line = text_of(row.get("line"))
    return {
        "number": int(number) if number.isdigit() else None,
        "type": text_of(row.get("type")),
        "where": text_of(row.get("original-location")) or text_of(row.get("what")),
        "address": text_of(row.get("addr")),
        "function": text_of(row.get("func")),
        "file": text_of(row.get("file")),
        "line": int(line) if line.isdigit() else 0,
        "hits": int(text_of(row.get("times")) or 0),
        "enabled": row.get("enabled") == "y",
        "temporary": row.get("disp") == "del",
        "condition": text_of(row.get("cond")),
        "ignore": int(text_of(row.get("ignore")) or 0),
        "places": [
            {
                "address": text_of(one.get("addr")),
                "function": text_of(one.get("func")),
                "file": text_of(one.get("file")),
                "line": int(text_of(one.get("line")) or 0),
            }
            for one in (places if isinstance(places, list) else [])
            if isinstance(one, dict)
        ],
    }
