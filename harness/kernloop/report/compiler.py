# SPDX-License-Identifier: Apache-2.0
"""What a build says, as data: complaints of gcc and clang, and of all that else takes part in a kernel build.

Formats: clang/lib/Frontend/TextDiagnostic.cpp; gcc/diagnostic.cc and gcc/tree-diagnostic.cc; the other programs are
rows of build_table.py. gcc names the function in a line of its own (`FILE: In function 'x':`), clang never does:
`with_functions` looks it up in the source. Where gcc points into a macro and clang at the macro's user, both say here
what clang says: the place in the user's file, the macro as a note.

>>> parse(["kernel/fork.c: In function 'x':", "kernel/fork.c:3:5: error: 'y' undeclared"])[0].function
'x'
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .build_table import HOST_HEADERS, MACHINE, ROWS, Row
from .functions import enclosing
from .lines import read_line
from .patterns import Pattern

__all__ = ["Diagnostic", "Place", "errors", "new", "parse", "with_functions"]

_HEAD = Pattern(
    r"^(?P<file>[^\s:][^:]*):(?:(?P<line>\d{1,9}):(?:(?P<column>\d{1,9}):)?)? "
    r"(?P<severity>fatal error|[Ee]rror|[Ww]arning|note|remark): (?P<message>.*\S)"
)
_OPTION = Pattern(r"(?<!\s)\s+\[(?:-Werror[=,])?(?:-W)?(?P<name>[\w+-][\w+=-]*)(?:,-Werror)?\]$")
_FUNCTION = Pattern(r"^(?:(?P<file>[^\s:][^:]*): )?In (?:member )?function '(?P<name>[^']+)'[:,]$")
_TOP = Pattern(r"^(?P<file>[^\s:][^:]*): At top level:$")
_INLINED = Pattern(
    r"^ {4}inlined from '(?P<name>[^']+)' at (?P<file>[^:]+):(?P<line>\d{1,9}):(?P<column>\d{1,9})?[:,]*$"
)
_INCLUDED = Pattern(r"^(?:In file included| {16}) ?from (?P<file>[^:]+):(?P<line>\d{1,9})")
_SOURCE = Pattern(r"^\s*\d* \| ?(?P<text>.*)$")
_CARET = Pattern(r"^[\s~|]*\^[\s~|]*$")
_SUMMARY = Pattern(
    r"^(?:\d+ (?:warning|error)s?(?: and \d+ errors?)? generated\.|compilation terminated\.|"
    r"\S+: (?:all|some) warnings being treated as errors)"
)
_LD_FUNCTION = Pattern(
    r"^(?:\S*\bld(?:\.bfd)?: )?(?P<object>[^\s:]+\.(?:o|a)(?:\([^)]*\))?): in function [`'](?P<name>[^']+)'"
)
_LLD_AT = Pattern(r"^>>> (?:referenced by|defined at) \S+ \((?P<file>[^():]+):(?P<line>\d{1,9})\)")
_LLD_BY = Pattern(r"^>>> +(?P<object>[^\s:]+\.o):\((?:(?P<name>\w+)|[^)]*)\)")
_FAILED_STEP = Pattern(r"^make(?:\[\d+\])?: \*\*\* \[(?:[^\]]+?:\d+: )?(?P<target>[^\]]+)\] Error (?P<status>\d+)")
_MAKE = Pattern(r"^make(?:\[\d+\])?: ")
_PROGRESS = Pattern(r"^  [A-Z][A-Z0-9_]* +(?:\[[A-Z]\] +)?\S")
# What differs between two builds of the same mistake.
_NUMBERS = Pattern(r"\+0x[0-9a-f]+|0x[0-9a-f]{5,}|__compiletime_assert_\d+")
# Of what a step that failed without a known complaint printed before it.
_LAST_WORDS = 8


@dataclass(frozen=True)
class Place:
    file: str
    line: int


@dataclass(frozen=True)
class Diagnostic:
    """One complaint. `file` is relative to the tree, "" and `line` 0 where none is named.

    `option` is the warning's own (`-Wunused-variable`), also where -Werror made it an error. `source` is the quoted
    line, `included` the way to `file`, nearest first. `symbol` is what is undefined, not there or not installed,
    `object` the object or module it is about. `kind` is a stable word for complaints that ask for different things to
    be done: undefined, duplicate, section-mismatch, recursive, unmet, no-rule, unclean-tree, failed-step, interrupted,
    and those that are the machine's: disk-full, killed, missing-tool, missing-header, btf, compiler-crash.
    """

    file: str
    line: int
    column: int
    severity: str
    message: str
    function: str = ""
    option: str = ""
    tool: str = "cc"
    kind: str = ""
    symbol: str = ""
    object: str = ""
    source: str = ""
    notes: tuple[Diagnostic, ...] = ()
    included: tuple[Place, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.severity in ("error", "fatal error")

    @property
    def fault(self) -> str:
        """Whose: "machine", or "code" for what its writer can cure; "caller" for a tree or call that cannot work."""
        if self.kind in MACHINE:
            return "machine"
        return "caller" if self.kind in ("unclean-tree", "interrupted") else "code"


def parse(lines: Iterable[str], *, tree: str = "") -> list[Diagnostic]:
    """All complaints in the order of the output, each once; `tree` is the prefix that absolute paths lose."""
    parser = _Parser(tree)
    for raw in lines:
        parser.feed(raw)
    return parser.end()


def errors(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    return [found for found in diagnostics if found.is_error]


def new(diagnostics: Sequence[Diagnostic], before: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Those that `before`, an earlier build of the tree, did not have. Lines may have moved since."""
    known = Counter(_same(found) for found in before)
    result = []
    for found in diagnostics:
        key = _same(found)
        if known[key]:
            known[key] -= 1
        else:
            result.append(found)
    return result


def with_functions(
    diagnostics: Iterable[Diagnostic], read: Callable[[str], Sequence[str] | None]
) -> tuple[Diagnostic, ...]:
    """`function` filled in where the compiler named none; `read` gives the lines of a file of the tree, or None."""
    result = []
    for found in diagnostics:
        if not found.function and found.line and found.file.endswith((".c", ".h")):
            source = read(found.file)
            if source is not None:
                found = replace(found, function=enclosing(source, found.line))
        result.append(found)
    return tuple(result)


def _same(found: Diagnostic) -> tuple[str, ...]:
    return (found.file, found.object, found.function, _NUMBERS.sub("", found.message), found.option, found.tool)


class _Parser:
    def __init__(self, tree: str) -> None:
        self._tree = posixpath.normpath(tree).rstrip("/") + "/" if tree else ""
        self._found: list[Diagnostic] = []
        self._functions: dict[str, str] = {}  # by file, as gcc said last
        self._function = ""  # said last, and no other step has begun since
        self._included: list[Place] = []
        self._chain = False  # the line before was of an include chain
        self._inlined: list[Diagnostic] = []
        self._object = ""
        self._more: Pattern | None = None
        self._quoted = False  # the line before was a complaint's head: its source line may follow
        self._last: list[str] = []
        self._failed: list[Diagnostic] = []

    def feed(self, raw: str) -> None:
        text = read_line(raw).text.replace("\u2018", "'").replace("\u2019", "'").rstrip()
        if not text:
            return
        quoted, self._quoted = self._quoted, False
        chain, self._chain = self._chain, False
        if self._more and self._found and self._more.match(text):
            self._note(Diagnostic("", 0, 0, "note", text.strip()))
            return
        self._more = None
        if _PROGRESS.match(text):
            self._function, self._included, self._inlined, self._object, self._last = "", [], [], "", []
        elif step := _INCLUDED.match(text):
            self._include(Place(self._path(step["file"]), int(step["line"])), chain, text.startswith(" "))
        elif source := _SOURCE.match(text):
            if quoted:
                self._quote(source["text"].strip())
        elif quoted and text.startswith((" ", "\t")) and not _CARET.match(text):
            self._quote(text.strip())
        elif self._context(text) or self._row(text) or self._compiler(text):
            pass
        elif failed := _FAILED_STEP.match(text):
            self._failure(failed["target"], failed["status"])
        elif not _SUMMARY.match(text) and not _CARET.match(text) and not _MAKE.match(text):
            self._last = [*self._last[1 - _LAST_WORDS :], text.strip()]

    def end(self) -> list[Diagnostic]:
        found = [self._referrer(_user_place(one)) for one in self._found]
        if not any(one.is_error for one in found):
            # The innermost make speaks first.
            found += self._failed[:1]
        unique: dict[tuple[object, ...], Diagnostic] = {}
        for one in found:
            unique.setdefault((one.file, one.line, one.column, one.severity, one.message, one.object), one)
        return list(unique.values())

    # ld.lld says who refers to a symbol in lines below.
    def _referrer(self, found: Diagnostic) -> Diagnostic:
        if found.tool == "ld" and not found.file and found.notes:
            if at := _LLD_AT.match(found.notes[0].message):
                found = replace(found, file=self._path(at["file"]), line=int(at["line"]))
            if len(found.notes) > 1 and (by := _LLD_BY.match(found.notes[1].message)):
                found = replace(found, object=self._path(by["object"]), function=by["name"] or "")
        return found

    # gcc leads a chain by `In file included from` once, nearest first; clang each step, farthest first.
    def _include(self, place: Place, chain: bool, goes_on: bool) -> None:
        self._chain = True
        if goes_on:
            self._included.append(place)
        else:
            self._included = [place, *self._included] if chain else [place]

    def _context(self, text: str) -> bool:
        if found := _FUNCTION.match(text):
            self._function = found["name"]
            self._inlined = []
            if found["file"]:
                self._functions[self._path(found["file"])] = found["name"]
        elif found := _INLINED.match(text):
            self._function = found["name"]
            place = Diagnostic(self._path(found["file"]), int(found["line"]), int(found["column"] or 0), "note", "")
            self._inlined.append(replace(place, message=f"inlined from '{found['name']}'", function=found["name"]))
        elif found := _TOP.match(text):
            self._function = ""
            self._functions.pop(self._path(found["file"]), None)
        elif found := _LD_FUNCTION.match(text):
            self._object, self._function = self._path(found["object"]), found["name"]
            # GNU ld may go on in the same line.
            return self._row(text[found.end() :].lstrip(": "))
        else:
            return False
        return True

    def _row(self, text: str) -> bool:
        for row in ROWS:
            if found := row.pattern.search(text):
                self._add(self._of_row(row, found.groupdict(), text))
                self._more = row.more
                return True
        return False

    def _of_row(self, row: Row, parts: dict[str, str | None], text: str) -> Diagnostic:
        linker = row.tool == "ld"
        return Diagnostic(
            self._path(parts.get("file") or ""),
            int(parts.get("line") or 0),
            0,
            row.severity,
            parts.get("message") or text.strip(),
            function=parts.get("function") or (self._function if linker else ""),
            tool=row.tool,
            kind=row.kind,
            symbol=parts.get("symbol") or "",
            object=self._path(parts.get("object") or (self._object if linker else "")),
        )

    def _compiler(self, text: str) -> bool:
        head = _HEAD.match(text)
        if not head:
            return False
        file, message = self._path(head["file"]), head["message"]
        severity = head["severity"].lower()
        option = ""
        if severity != "note" and (found := _OPTION.search(message)):
            option, message = f"-W{found['name'].rstrip('=')}", message[: found.start()]
        host = HOST_HEADERS.match(message) if severity == "fatal error" else None
        self._add(
            Diagnostic(
                file,
                int(head["line"] or 0),
                int(head["column"] or 0),
                severity,
                message,
                function=self._function or self._functions.get(file, ""),
                option=option,
                tool="as" if head["severity"][0].isupper() else "cc",
                kind="missing-header" if host else "",
                symbol=host[1] if host else "",
                included=tuple(self._included),
            )
        )
        self._quoted = True
        return True

    def _add(self, found: Diagnostic) -> None:
        if found.severity == "note" and self._found:
            self._note(replace(found, function="", included=()))
        else:
            self._found.append(replace(found, notes=tuple(self._inlined)))
            self._inlined = []
        self._included = []

    def _note(self, note: Diagnostic) -> None:
        self._found[-1] = replace(self._found[-1], notes=(*self._found[-1].notes, note))

    def _quote(self, source: str) -> None:
        last = self._found[-1]
        if last.notes and not last.notes[-1].source and last.source:
            self._found[-1] = replace(last, notes=(*last.notes[:-1], replace(last.notes[-1], source=source)))
        elif not last.source:
            self._found[-1] = replace(last, source=source)

    def _failure(self, target: str, status: str) -> None:
        notes = tuple(Diagnostic("", 0, 0, "note", word) for word in self._last)
        message = f"{target}: exit status {status}"
        self._failed.append(
            Diagnostic(
                "", 0, 0, "error", message, tool="make", kind="failed-step", object=self._path(target), notes=notes
            )
        )

    # A build folder in the tree makes paths begin with ../, the kernel's own Makefiles with ./ at times.
    def _path(self, path: str) -> str:
        if not path or path.startswith("<"):
            return path
        path = posixpath.normpath(path)
        while path.startswith("../"):
            path = path[3:]
        return path.removeprefix(self._tree) if self._tree else path


# gcc points into the macro that a mistake ends up in, or into a function that was inlined; the outermost use of it is
# where it is made.
def _user_place(found: Diagnostic) -> Diagnostic:
    uses = [note for note in found.notes if note.message.startswith(("in expansion of macro", "inlined from"))]
    if not uses:
        return found
    use = uses[-1]
    there = Diagnostic(found.file, found.line, found.column, "note", "in this macro or function", source=found.source)
    notes = (there, *(note for note in found.notes if note is not use))
    return replace(found, file=use.file, line=use.line, column=use.column, source=use.source, included=(), notes=notes)
