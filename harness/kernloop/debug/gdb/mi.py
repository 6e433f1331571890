# SPDX-License-Identifier: Apache-2.0
"""A line of GDB's machine interface, as a record (GDB manual, "GDB/MI Output Syntax").

pygdbmi's parser (0.11.0.0, its last release) was tried and left: it never returns from a list that a dying GDB has cut
off, and makes of a key that comes twice another value than of one that comes once.

>>> parse('7^done,value="0x10"')
Record(kind='result', word='done', values={'value': '0x10'}, token=7, text='')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kernloop.errors import UsageError

__all__ = ["MiError", "Record", "Value", "one_line", "parse", "quoted"]

Value: TypeAlias = "str | list[Value] | dict[str, Value]"

_RECORD = re.compile(r"(\d*)([\^*=+])([a-z-]+)")
_STREAM = {"~": "console", "@": "target", "&": "log"}
_KIND = {"^": "result", "*": "exec", "=": "notify", "+": "status"}
_KEY = re.compile(r"([A-Za-z_][\w-]*)=")
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_ESCAPE = re.compile(r"(?:\\[0-7]{3})+|\\(.)", re.DOTALL)
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
_DEEPEST = 200


class MiError(ValueError):
    """The line is not of the machine interface, or ends too early."""


@dataclass(frozen=True)
class Record:
    """`kind` is result, exec, notify, status, a stream (console, target, log: `text`), or prompt."""

    kind: str
    word: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    token: int | None = None
    text: str = ""


def parse(line: str) -> Record:
    """The record that `line`, without its end, is. Raises MiError."""
    if line.rstrip() == "(gdb)":
        return Record("prompt")
    if line[:1] in _STREAM:
        match = _STRING.fullmatch(line, 1)
        if match is None:
            raise MiError(f"no string: {line[:80]!r}")
        return Record(_STREAM[line[0]], text=_unescaped(match[1]))
    head = _RECORD.match(line)
    if head is None:
        raise MiError(f"no record: {line[:80]!r}")
    reader = _Reader(line, head.end())
    values = reader.pairs("")
    return Record(_KIND[head[2]], head[3], values, int(head[1]) if head[1] else None)


def quoted(text: str) -> str:
    """`text` as one word of a command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def one_line(text: str) -> str:
    """`text`, for it to be part of a command: a second line would be another. Raises UsageError."""
    if "\n" in text or "\r" in text:
        raise UsageError("a command of more than one line", hint="give one line")
    return text


class _Reader:
    def __init__(self, text: str, at: int) -> None:
        self.text, self.at, self.depth = text, at, 0

    # `,key=value` up to `end`, which is "" for the line's. A key that comes again is a list of all its values; of a
    # breakpoint with several places GDB leaves the key away (bkpt={...},{...}).
    def pairs(self, end: str) -> dict[str, Value]:
        found: dict[str, Value] = {}
        repeated: set[str] = set()
        key = ""
        while not self._over(end):
            if end == "" or found:
                self._take(",")
            match = _KEY.match(self.text, self.at)
            if match:
                key, self.at = match[1], match.end()
            elif not key:
                raise MiError(f"no key at {self.at}: {self.text[self.at : self.at + 40]!r}")
            value = self.value()
            if key not in found:
                found[key] = value
            elif key in repeated:
                several = found[key]
                assert isinstance(several, list)
                several.append(value)
            else:
                found[key] = [found[key], value]
                repeated.add(key)
        return found

    def value(self) -> Value:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise MiError("values within values without an end")
        try:
            sign = self.text[self.at : self.at + 1]
            if sign == '"':
                match = _STRING.match(self.text, self.at)
                if match is None:
                    raise MiError("a string without an end")
                self.at = match.end()
                return _unescaped(match[1])
            self.at += 1
            if sign == "{":
                return self.pairs("}")
            if sign == "[":
                return self._list()
        finally:
            self.depth -= 1
        raise MiError(f"no value at {self.at - 1}: {self.text[self.at - 1 : self.at + 40]!r}")

    # Of values, or of `key=value`, whose keys say nothing: they are all the same.
    def _list(self) -> list[Value]:
        found: list[Value] = []
        while not self._over("]"):
            if found:
                self._take(",")
            match = _KEY.match(self.text, self.at)
            if match:
                self.at = match.end()
            found.append(self.value())
        return found

    def _over(self, end: str) -> bool:
        if end == "":
            return self.at >= len(self.text)
        if self.at >= len(self.text):
            raise MiError(f"the line ends before {end!r}")
        if self.text[self.at] == end:
            self.at += 1
            return True
        return False

    def _take(self, sign: str) -> None:
        if self.text[self.at : self.at + 1] != sign:
            raise MiError(f"no {sign!r} at {self.at}: {self.text[self.at : self.at + 40]!r}")
        self.at += 1


# Bytes that are no ASCII come in octal, one by one.
def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        if match[1] is not None:
            return _NAMED.get(match[1], match[1])
        codes = bytes(int(code, 8) & 0xFF for code in match[0][1:].split("\\"))
        return codes.decode(errors="replace")

    return _ESCAPE.sub(one, text)
