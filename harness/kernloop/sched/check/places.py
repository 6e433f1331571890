# SPDX-License-Identifier: Apache-2.0
"""The line in the scheduler's own source that an instruction stands for.

Line info names the innermost line, and that of an inlined wrapper is in a header (scx/compat.bpf.h). Where the object
has DWARF the place of the call is known from there; else the nearest line of the scheduler's own is taken.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from kernloop.sched.check.inlined import Calls, inlined_calls
from kernloop.sched.check.state import Path as Path_
from kernloop.sched.check.trace import Event
from kernloop.sched.obj.model import Line, OpsTable, Program, SchedObject

__all__ = ["Places"]

_HEADERS = ("/scx/", "vmlinux.h", "bpf_helpers.h", "bpf_tracing.h", "bpf_core_read.h")


class Places:
    """Lines of one object. `source` is the file it was compiled from, if that is known."""

    def __init__(self, obj: SchedObject, source: Path | None) -> None:
        self._obj = obj
        self._source = source
        self._texts: dict[str, list[str]] = {}
        self._wrappers: dict[str, set[int]] = {}

    def of(self, event: Event) -> Line | None:
        """The line of what happened."""
        exact = None if self._merged(event) else self._exact(event.program, event.insn.index)
        return exact or self._before(event, frozenset(), _word(event.name))

    # Whether this way came into the middle of an inlined call: the compiler has made one of the ends of several.
    def _merged(self, event: Event) -> bool:
        program = event.program
        line = program.insns[event.insn.index].line
        if line is None or not _header(line.file) or event.path is None:
            return False
        pieces = self._calls.pieces(program.name, program.insns[event.insn.index].slot)
        programs = list(self._obj.programs.values())
        path: Path_ | None = event.path
        entry = event.insn.index
        while path is not None and programs[path.site >> 20] is program:
            start = path.to
            run = self._straight(program, start, entry)
            inside = [at for at in run if any(a <= program.insns[at].slot < b for a, b in pieces)]
            if len(inside) < len(run):
                break
            entry = path.site & 0xFFFFF
            if not any(a <= program.insns[entry].slot < b for a, b in pieces):
                inside = run
                break
            path = path.before
        else:
            return False
        first = program.insns[inside[0]].slot if inside else None
        return bool(pieces) and first is not None and all(first != a for a, _ in pieces)

    # The instructions from `start` on to `end`, over unconditional jumps.
    def _straight(self, program: Program, start: int, end: int) -> list[int]:
        found: list[int] = []
        at = start
        while at < len(program.insns) and len(found) < 2000:
            found.append(at)
            insn = program.insns[at]
            if at == end or insn.code == 0x95:
                break
            at = insn.target if insn.target is not None and insn.code in (0x05, 0x06) else at + 1
        return found

    def returned(self, event: Event) -> Line | None:
        """The line at which the op returned, for an exit."""
        begin = event.program.first_line
        found = self._before(event, frozenset([begin.line] if begin is not None else []), "", outermost=True)
        if found is None or re.search(r"\breturn\b", self.text(found.file, found.line)):
            return found
        # The last branch was at that line: what it went on to is no deeper in the text.
        lines = self._lines(found.file)
        depth = _indent(lines[found.line - 1]) if found.line <= len(lines) else 0
        for number, text in enumerate(lines[found.line :], found.line + 1):
            if text.startswith("}"):
                break
            if re.match(r"\s*return\b", text) and _indent(text) <= depth:
                return Line(found.file, number, 0, text)
        return found

    def line(self, program: Program, index: int) -> Line | None:
        """The line of the scheduler's own source to which instruction `index` belongs, whatever the way to it."""
        found = self._exact(program, index)
        if found is not None:
            return found
        at: int
        for at in (*range(index, -1, -1), *range(index + 1, len(program.insns))):
            near = program.insns[at].line
            if near is not None and not _header(near.file):
                return near
        return program.insns[index].line

    def _exact(self, program: Program, index: int) -> Line | None:
        found = program.insns[index].line
        if found is not None and found.line and not _header(found.file):
            return found
        for file, number in self._calls.around(program.name, program.insns[index].slot):
            # Line 0: the compiler has made one call of several.
            if not number:
                return None
            if not _header(file):
                return Line(file, number, 0, self.text(file, number))
        return None

    # The last line of the scheduler's own on the way to `event` that is none of `but`; of the last few the one with
    # `word`, if there is one: what the arguments of a call were computed from may be in other functions.
    def _before(self, event: Event, but: frozenset[int], word: str, *, outermost: bool = False) -> Line | None:
        programs = list(self._obj.programs.values())
        path, end = event.path, (event.program.name, event.insn.index)
        last: Line | None = None
        for _ in range(6 if word else 1000):
            program = programs[path.site >> 20] if path is not None else self._obj.programs[event.entry]
            lines = self._lines_on(program, path.to if path is not None else 0, end, but, outermost)
            last = last or (lines[-1] if lines else None)
            named = [line for line in lines if word and word in self.text(line.file, line.line)]
            if named or (last is not None and not word):
                return named[-1] if named else last
            if path is None:
                break
            end = (programs[path.site >> 20].name, path.site & 0xFFFFF)
            at = programs[path.site >> 20]
            near = self.outermost(at, end[1]) if outermost else self._exact(at, end[1])
            if near is not None and near.line not in but:
                last = last or near
                if not word:
                    return last
            path = path.before
        return last or self.line(event.program, event.insn.index)

    # Such lines from instruction `start` on until a branch, or `end`.
    def _lines_on(
        self, program: Program, start: int, end: tuple[str, int], but: frozenset[int], outermost: bool
    ) -> list[Line]:
        found: list[Line] = []
        at = start
        for _ in range(2000):
            insn = program.insns[at]
            line = self.outermost(program, at) if outermost and insn.line else self._exact(program, at)
            if line is not None and line.line not in but and not _header(line.file):
                found.append(line)
            if (program.name, at) == end or insn.code == 0x95:
                break
            if insn.target is not None:
                if insn.code not in (0x05, 0x06):
                    break
                at = insn.target
            else:
                at += 1
            if at >= len(program.insns):
                break
        return found

    def outermost(self, program: Program, index: int) -> Line | None:
        """The line in the function that the author wrote as `program`, where `index` is of one it has inlined."""
        calls = self._calls.around(program.name, program.insns[index].slot)
        begin = self._begins(program)
        mine = [one for one in calls if one[1] and not _header(one[0]) and one[1] not in begin]
        if not mine:
            return self.line(program, index)
        file, number = mine[-1]
        return Line(file, number, 0, self.text(file, number))

    # BPF_PROG() is a wrapper of its own: the call of the body is at the line where the op begins, which is that of the
    # first instruction, or of all that lie outside of the body.
    def _begins(self, program: Program) -> set[int]:
        found = self._wrappers.get(program.name)
        if found is None:
            own = {
                insn.line.line
                for insn in program.insns
                if insn.line and not self._calls.around(program.name, insn.slot)
            }
            first = program.first_line
            found = self._wrappers[program.name] = (own if len(own) == 1 else set()) | (
                {first.line} if first else set()
            )
        return found

    def first(self, program: Program) -> Line | None:
        """Where the function begins."""
        return program.first_line

    def table(self, table: OpsTable, member: str = "") -> Line | None:
        """Where the ops table, or the line of it that names `member`, is in the source, if that is at hand."""
        for file in sorted({line.file for one in self._obj.programs.values() if (line := one.first_line)}):
            if _header(file):
                continue
            for number, text in enumerate(self._lines(file), 1):
                if re.search(rf"\b{re.escape(table.name)}\b\s*[,=]", text) and "extern" not in text:
                    return self._member(file, number, member) or Line(file, number, 0, text)
        program = self._obj.programs.get(table.members.get("enqueue") or next(iter(table.members.values()), ""))
        return program.first_line if program is not None else None

    def _member(self, file: str, number: int, member: str) -> Line | None:
        for at, text in enumerate(self._lines(file)[number - 1 :], number):
            if member and re.search(rf"\b{re.escape(member)}\b", text):
                return Line(file, at, 0, text)
            if ";" in text:
                break
        return None

    def text(self, file: str, number: int) -> str:
        """Line `number` of `file`, from line info, or from the file if it is at hand."""
        known = self._known.get((file, number))
        if known is not None:
            return known
        lines = self._lines(file)
        return lines[number - 1] if 0 < number <= len(lines) else ""

    def around(self, file: str, number: int, count: int = 2) -> list[tuple[int, str]]:
        """Line `number` and up to `count` before and behind it, where the text is at hand."""
        lines = self._lines(file)
        if lines:
            first = max(number - count, 1)
            return list(enumerate(lines[first - 1 : number + count], first))
        return [
            (at, self._known[(file, at)])
            for at in range(number - count, number + count + 1)
            if (file, at) in self._known
        ]

    def _lines(self, file: str) -> list[str]:
        if file not in self._texts:
            path = Path(file)
            if self._source is not None:
                path = self._source if path.name == self._source.name else self._source.parent / path
            try:
                self._texts[file] = path.read_text(errors="replace").splitlines()
            except OSError:
                self._texts[file] = []
        return self._texts[file]

    @cached_property
    def _known(self) -> dict[tuple[str, int], str]:
        return {
            (line.file, line.line): line.source
            for program in self._obj.programs.values()
            for _, line in program.line_info
            if line.source
        }

    @cached_property
    def _calls(self) -> Calls:
        return inlined_calls(self._obj.path)


# What the author has written of a call, whatever the release.
def _word(name: str) -> str:
    for word in ("insert", "move", "consume", "dispatch"):
        if word in name and name.startswith(("scx_bpf", "__scx_bpf")):
            return f"_{word}"
    return ""


def _indent(text: str) -> int:
    return len(text.expandtabs()) - len(text.expandtabs().lstrip())


def _header(file: str) -> bool:
    return file.startswith(("linux/", "vmlinux/", "libbpf/")) or any(word in file for word in _HEADERS)
