# SPDX-License-Identifier: Apache-2.0
"""What the other programs of a kernel build complain with: linkers, modpost, objtool, Kconfig, pahole, the shell, make.

A row is one form of complaint. Its pattern may have the groups `file`, `line`, `symbol`, `object`, `function` and
`message` (the whole line where there is none); lines that `more` fits belong to the complaint before them. The first
row that fits counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .patterns import Pattern

__all__ = ["HOST_HEADERS", "MACHINE", "ROWS", "Row"]

# Kinds that are no fault of the code that is built.
MACHINE = frozenset({"disk-full", "killed", "missing-tool", "missing-header", "btf", "compiler-crash"})

# Headers of libraries that the kernel's host programs want (tools/objtool, scripts/, certs/), and of gcc's plugins.
HOST_HEADERS = Pattern(r"^'?((?:gelf|libelf|elf|zlib|zstd|ncurses|curses|gcc-plugin|slang)\.h|openssl/\S+?\.h)'?[ :]")


@dataclass(frozen=True)
class Row:
    tool: str
    severity: str
    kind: str
    pattern: Pattern
    more: Pattern | None = None


def _error(tool: str, kind: str, *pattern: str, more: Pattern | None = None) -> Row:
    return Row(tool, "error", kind, Pattern("".join(pattern)), more)


def _warning(tool: str, kind: str, *pattern: str, more: Pattern | None = None) -> Row:
    return Row(tool, "warning", kind, Pattern("".join(pattern)), more)


_LLD_MORE = Pattern(r"^>>> ")
_INDENTED = Pattern(r"^(?:\t| {2,})\S|^\S*Kconfig\S*:\d+:\t\S")
# GNU ld: `[ld: ][OBJECT:]FILE:(SECTION+0x1): ` or, with line numbers in the object, `...FILE:LINE: `.
_LD = r"^(?:\S*\bld(?:\.bfd|\.gold)?: )?(?:(?P<object>[^\s:]+\.(?:o|a)):)?(?P<file>[^\s:(]*):?"
_LD_AT = r"(?:(?P<line>\d{1,9}):|\([^)]*\):) "
_LD_NAME = r"[`'](?P<symbol>[^']+)'"
_NOT_FOUND = r"(?P<symbol>[^\s:]+): (?:command )?not found"
_STEP = r"\*\*\* \[(?>[^\][]*: )?(?P<object>[^\][]+)\] "
_KCONFIG = r"^(?P<file>\S*(?:Kconfig\S*|\.config)):(?P<line>\d{1,9}): ?"
# Up to 6.x: `"SYMBOL" [OBJECT] undefined!`, then `OBJECT: symbol 'SYMBOL' undefined!`.
_MODULE = r"(?:(?P<object>\S+): )?"
_UNDEFINED = r"(?P<message>symbol '(?P<symbol>[^']+)' undefined!)"
_UNDEFINED_OLD = r'(?P<message>"(?P<symbol>[^"]+)" \[(?P<object>[^\]]+)\] undefined!)'
_OBJTOOL = r"objtool: (?P<message>(?:(?P<function>[\w.]+)(?:\+0x[0-9a-f]+|\(\)):? )?.*)"
_MAKEFILE = r"^(?P<file>[^\s:]*(?:[Mm]akefile|Kbuild)[^\s:]*):(?P<line>\d{1,9}): "

ROWS = (
    # The machine. "No space left" comes from whoever wrote last: a compiler, the assembler, ar, the shell.
    _error("host", "disk-full", r"No space left on device|Disk quota exceeded"),
    # ld.lld maps what it writes: SIGBUS when the file cannot grow.
    _error("ld", "disk-full", _STEP, r"Error 135"),
    _error(
        "host",
        "killed",
        r"Killed signal terminated program|internal compiler error: Killed|unable to execute command: Killed|^Killed$|",
        r"out of memory allocating|virtual memory exhausted|LLVM ERROR: out of memory|Cannot allocate memory|",
        _STEP,
        r"(?:Killed|Error 137)",
    ),
    _error("make", "interrupted", _STEP, r"(?:Interrupt|Terminated|Hangup)"),
    _error("cc", "compiler-crash", r"internal compiler error: |clang frontend command failed due to signal"),
    _error("host", "missing-tool", r"^\S*sh: (?:line )?(?:\d+: )?", _NOT_FOUND),
    _error("host", "missing-tool", r"^\S+\.sh: (?:line )?\d+: ", _NOT_FOUND),
    _error(
        "host",
        "missing-tool",
        r"^(?:make(?:\[\d+\])?|env): '?(?P<symbol>[^\s:']+)'?: (?:No such file or directory|Command not found)",
    ),
    _error("host", "missing-tool", r"error while loading shared libraries: (?P<symbol>[^\s:]+)"),
    # scripts/link-vmlinux.sh, scripts/gen-btf.sh, tools/bpf/resolve_btfids
    _error("pahole", "missing-tool", r"^BTF: .*: (?P<symbol>pahole) .*is not available"),
    _error("pahole", "missing-tool", r"^BTF: .*pahole version .* is too old"),
    _error("pahole", "btf", r"^FAILED:? .*|^Failed to generate BTF for .*"),
    # ld.lld, then GNU ld
    _error("ld", "undefined", r"^\S*ld\.lld: error: (?P<message>undefined symbol: (?P<symbol>.*))", more=_LLD_MORE),
    _error("ld", "duplicate", r"^\S*ld\.lld: error: (?P<message>duplicate symbol: (?P<symbol>.*))", more=_LLD_MORE),
    _error("ld", "", r"^\S*ld\.lld: error: (?P<message>.*)", more=_LLD_MORE),
    _warning("ld", "", r"^\S*ld\.lld: warning: (?P<message>.*)", more=_LLD_MORE),
    _error("ld", "undefined", _LD, _LD_AT, r"(?P<message>undefined reference to ", _LD_NAME, ")"),
    _error("ld", "duplicate", _LD, _LD_AT, r"(?P<message>multiple definition of ", _LD_NAME, ".*)"),
    _warning("ld", "", r"^\S*\bld(?:\.bfd)?: warning: (?P<message>.*)"),
    _error("ld", "", r"^\S*\bld(?:\.bfd)?: (?P<message>cannot find .*|.*relocation truncated.*|.*overlaps section.*)"),
    # scripts/mod/modpost.c
    _error("modpost", "undefined", r"^ERROR: modpost: ", _MODULE, _UNDEFINED),
    _error("modpost", "undefined", r"^ERROR: modpost: ", _UNDEFINED_OLD),
    _warning("modpost", "undefined", r"^WARNING: modpost: ", _MODULE, _UNDEFINED),
    _warning("modpost", "undefined", r"^WARNING: modpost: ", _UNDEFINED_OLD),
    _warning(
        "modpost",
        "section-mismatch",
        r"^WARNING: modpost: ",
        _MODULE,
        r"(?P<message>section mismatch in reference: ",
        r"(?P<function>[\w.]+)(?:\+0x[0-9a-f]+)? .*-> (?P<symbol>[\w.]+).*)",
    ),
    _error("modpost", "", r"^(?:ERROR|FATAL): modpost: ", _MODULE, r"(?P<message>.*)"),
    _warning("modpost", "", r"^WARNING: modpost: ", _MODULE, r"(?P<message>.*)"),
    # tools/objtool/include/objtool/warn.h
    _warning("objtool", "", r"^(?P<object>[^\s:]+\.o): warning: ", _OBJTOOL),
    _error("objtool", "", r"^(?:(?P<object>[^\s:]+\.o): )?error: ", _OBJTOOL),
    # scripts/kconfig: parser.y, menu.c, symbol.c, confdata.c
    _error(
        "kconfig",
        "recursive",
        r"^(?:(?P<file>\S*Kconfig\S*):(?P<line>\d{1,9}):)?error: (?P<message>recursive dependency detected!)",
        more=_INDENTED,
    ),
    _warning(
        "kconfig",
        "unmet",
        r"^WARNING: (?P<message>unmet direct dependencies detected for (?P<symbol>\w+))",
        more=_INDENTED,
    ),
    _warning("kconfig", "", _KCONFIG, r"warning: (?P<message>.*)"),
    # kernel-doc, with W=1 (tools/lib/python/kdoc)
    _warning("kernel-doc", "", r"^Warning: (?P<file>[^\s:]+):(?P<line>\d{1,9}) (?P<message>.*)"),
    # make itself and the kernel's Makefiles
    _error("make", "unclean-tree", r"(?P<message>(?:The source tree|(?<!\S)\S+) is not clean, please run .*)"),
    _error(
        "make",
        "no-rule",
        r"\*\*\* (?P<message>No rule to make target '(?P<symbol>[^']+)'(?:, needed by '(?P<object>[^']+)')?)",
    ),
    _error("make", "", _MAKEFILE, r"\*\*\* (?P<message>.*?)(?:\.  Stop\.)?$"),
    _error("kconfig", "", _KCONFIG, r"(?:error: )?(?P<message>\S.*)"),
)
