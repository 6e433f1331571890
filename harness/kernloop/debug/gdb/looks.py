# SPDX-License-Identifier: Apache-2.0
"""What can be read of a guest that stands still: stacks, variables, structs, source, code, memory, registers."""

from __future__ import annotations

from typing import Any

from kernloop.debug.gdb.control import Control, frame_of, text_of
from kernloop.debug.gdb.mi import Value, one_line, quoted
from kernloop.debug.gdb.process import Gdb, GdbRefused
from kernloop.debug.gdb.state import Frame
from kernloop.errors import UsageError

__all__ = ["Looks"]

_MOST_MEMORY = 1 << 20
_MOST_LINES = 500
# Of GDB's own commands those that only tell.
_TELLING = ("info", "ptype", "whatis", "print", "p", "x", "output", "show", "list", "help")


class Looks:
    """Each operation by the name of its command. Raises GdbRefused where GDB finds no sense in what is asked for."""

    def __init__(self, gdb: Gdb, control: Control, cpus: int) -> None:
        self._gdb = gdb
        self._control = control
        self._cpus = cpus
        self._made = 0

    async def backtrace(self, *, cpu: int = -1, limit: int = 32) -> dict[str, Any]:
        """The calls of a vCPU, the one that stopped by default, with their arguments."""
        self._control.must_be_stopped()
        return {"cpu": self._cpu(cpu), "frames": await self._frames(self._cpu(cpu), limit)}

    async def cpus(self, *, limit: int = 8) -> dict[str, Any]:
        """The calls of all vCPUs."""
        self._control.must_be_stopped()
        return {"cpus": [{"cpu": cpu, "frames": await self._frames(cpu, limit)} for cpu in range(self._cpus)]}

    async def locals(self, *, cpu: int = -1, frame: int = 0) -> dict[str, Any]:
        """Arguments and local variables of a call; what the compiler has optimised out says so."""
        self._control.must_be_stopped()
        place = self._place(cpu, frame)
        found = await self._gdb.ask(f"-stack-list-variables {place} --all-values")
        rows = _dicts(found.values.get("variables"))
        shown = await self._gdb.ask(f"-stack-info-frame {place}")
        where = shown.values.get("frame")
        return {
            "frame": frame_of(where) if isinstance(where, dict) else None,
            "variables": [
                {
                    "name": text_of(row.get("name")),
                    "argument": row.get("arg") == "1",
                    "value": text_of(row.get("value")),
                }
                for row in rows
            ],
        }

    async def evaluate(self, *, expression: str, cpu: int = -1, frame: int = 0) -> dict[str, Any]:
        """The value of an expression of C, as GDB writes it."""
        self._control.must_be_stopped()
        found = await self._gdb.ask(f"-data-evaluate-expression {self._place(cpu, frame)} {quoted(expression)}")
        return {"value": text_of(found.values.get("value"))}

    async def tree(
        self, *, expression: str, depth: int = 2, limit: int = 64, cpu: int = -1, frame: int = 0
    ) -> dict[str, Any]:
        """A struct or array as a tree: members down to `depth`, `limit` values in all."""
        self._control.must_be_stopped()
        if depth < 0 or limit < 1:
            raise UsageError("a depth below 0, or no values at all", hint="as in --depth 2 --limit 64")
        self._made += 1
        name = f"kernloop{self._made}"
        place = self._place(cpu, frame)
        made = await self._gdb.ask(f"-var-create {place} {name} * {quoted(expression)}")
        try:
            budget = [limit]
            tree = await self._tree(made.values, expression, depth, budget)
        finally:
            await self._gdb.ask(f"-var-delete {name}")
        return {"tree": tree, "cut": budget[0] <= 0}

    async def source(self, *, where: str = "", lines: int = 20, cpu: int = -1, frame: int = 0) -> dict[str, Any]:
        """Source round a place: a function, FILE:LINE, or where the vCPU is."""
        self._control.must_be_there()
        if not 0 < lines <= _MOST_LINES:
            raise UsageError(f"{lines} lines", hint=f"1 to {_MOST_LINES}")
        await self._gdb.ask(f"-gdb-set listsize {lines}")
        if where:
            return {"source": await self._gdb.console(f"list {one_line(where)}")}
        self._control.must_be_stopped()
        await self._select(cpu, frame)
        return {"source": await self._gdb.console("list *$pc")}

    async def disassemble(self, *, where: str = "$pc", count: int = 16) -> dict[str, Any]:
        """`count` instructions from an address or function on."""
        self._control.must_be_stopped()
        if not 0 < count <= _MOST_LINES:
            raise UsageError(f"{count} instructions", hint=f"1 to {_MOST_LINES}")
        return {"code": await self._gdb.console(f"x/{count}i {one_line(where)}")}

    async def memory(self, *, address: str, size: int = 64) -> dict[str, Any]:
        """Bytes from an address (an expression) on, in hex."""
        self._control.must_be_stopped()
        if not 0 < size <= _MOST_MEMORY:
            raise UsageError(f"{size} bytes", hint=f"1 to {_MOST_MEMORY}")
        try:
            found = await self._gdb.ask(f"-data-read-memory-bytes {quoted(address)} {size}")
        except GdbRefused as error:
            raise UsageError(
                f"{address}: {error}", hint=f"that is its value as an address; where it lies is '&{address}'"
            ) from None
        pieces = _dicts(found.values.get("memory"))
        return {"pieces": [{"address": text_of(p.get("begin")), "bytes": text_of(p.get("contents"))} for p in pieces]}

    async def registers(self, *, cpu: int = -1, names: list[str] | None = None) -> dict[str, Any]:
        """Registers of a vCPU, those of integers unless `names` says which."""
        self._control.must_be_stopped()
        known = (await self._gdb.ask("-data-list-register-names")).values.get("register-names")
        wanted = names or ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16))]
        wanted = wanted if names else [*wanted, "rip", "eflags", "cs", "ss", "gs_base", "k_gs_base", "cr2", "cr3"]
        numbers = {str(name): at for at, name in enumerate(known if isinstance(known, list) else []) if name}
        unknown = [name for name in wanted if name not in numbers]
        if names and unknown:
            raise UsageError(f"no register is called {unknown[0]}", hint=" ".join(sorted(numbers)[:40]))
        chosen = " ".join(str(numbers[name]) for name in wanted if name in numbers)
        thread = self._cpu(cpu) + 1
        found = await self._gdb.ask(f"-data-list-register-values --thread {thread} --frame 0 x {chosen}")
        rows = {text_of(row.get("number")): row for row in _dicts(found.values.get("register-values"))}
        return {
            "cpu": self._cpu(cpu),
            "registers": {
                name: text_of(rows[str(numbers[name])].get("value"))
                for name in wanted
                if str(numbers.get(name)) in rows
            },
        }

    async def threads(self) -> dict[str, Any]:
        """The vCPUs, which are GDB's threads: what each says of itself and where it is."""
        self._control.must_be_stopped()
        found = await self._gdb.ask("-thread-info")
        rows = _dicts(found.values.get("threads"))
        return {"threads": [_thread(row) for row in rows]}

    async def command(self, *, text: str) -> dict[str, Any]:
        """What one of GDB's own commands prints: one that only tells, or an lx- command of the kernel's tree."""
        self._control.must_be_stopped()
        words = one_line(text).split()
        name = words[0].partition("/")[0] if words else ""
        if name == "lx-symbols":
            raise UsageError("lx-symbols would drop what was loaded", hint="modules does what it is for")
        if name not in _TELLING and not name.startswith("lx-"):
            raise UsageError(
                f"{name or 'nothing'} is none of GDB's commands that only tell", hint=" ".join((*_TELLING, "lx-*"))
            )
        return {"text": await self._gdb.console(text)}

    async def _tree(self, made: Any, name: str, depth: int, budget: list[int]) -> dict[str, Any]:
        budget[0] -= 1
        found: dict[str, Any] = {"name": name, "type": text_of(made.get("type"))}
        children = int(text_of(made.get("numchild")) or 0)
        if not children or made.get("value", "{...}") not in ("{...}", f"[{children}]"):
            found["value"] = text_of(made.get("value"))
        if not children or depth == 0:
            return found
        # What a pointer points to is another thing, but for the one that was asked for.
        listed = await self._gdb.ask(
            f"-var-list-children --all-values {quoted(text_of(made.get('name')))} 0 {max(budget[0], 0)}"
        )
        members = []
        for child in _dicts(listed.values.get("children")):
            if budget[0] <= 0:
                break
            deeper = 0 if text_of(child.get("type")).endswith("*") else depth - 1
            if text_of(child.get("type")) == "" and text_of(child.get("numchild")):
                deeper = depth  # an anonymous union or struct is no step down
            members.append(await self._tree(child, text_of(child.get("exp")), deeper, budget))
        if members:
            found["members"] = members
        if len(members) < children:
            found["left_out"] = children - len(members)
        return found

    async def _frames(self, cpu: int, limit: int) -> list[Frame]:
        if not 0 < limit <= _MOST_LINES:
            raise UsageError(f"{limit} frames", hint=f"1 to {_MOST_LINES}")
        thread = f"--thread {cpu + 1}"
        found = await self._gdb.ask(f"-stack-list-frames {thread} 0 {limit - 1}")
        frames = [frame_of(row) for row in _dicts(found.values.get("stack"))]
        args = await self._args(thread, limit)
        return [
            Frame(one.level, one.address, one.function, one.file, one.line, args.get(one.level, ())) for one in frames
        ]

    async def _args(self, thread: str, limit: int) -> dict[int, tuple[tuple[str, str], ...]]:
        try:
            found = await self._gdb.ask(f"-stack-list-arguments {thread} --simple-values 0 {limit - 1}")
        except GdbRefused:
            return {}  # a stack that leads nowhere
        return {frame_of(row).level: frame_of(row).args for row in _dicts(found.values.get("stack-args"))}

    async def _select(self, cpu: int, frame: int) -> None:
        await self._gdb.ask(f"-thread-select {self._cpu(cpu) + 1}")
        await self._gdb.ask(f"-stack-select-frame {frame}")

    def _place(self, cpu: int, frame: int) -> str:
        return f"--thread {self._cpu(cpu) + 1} --frame {int(frame)}"

    def _cpu(self, cpu: int) -> int:
        if cpu < 0:
            return self._control.session.cpu or 0
        if cpu >= self._cpus:
            raise UsageError(f"there is no CPU {cpu}", hint=f"0 to {self._cpus - 1}")
        return cpu


def _thread(row: dict[str, Value]) -> dict[str, Any]:
    frame = row.get("frame")
    number = text_of(row.get("id"))
    return {
        "cpu": int(number) - 1 if number.isdigit() else None,
        "details": text_of(row.get("details")),
        "frame": frame_of(frame) if isinstance(frame, dict) else None,
    }


def _dicts(value: Value | None) -> list[dict[str, Value]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
