# SPDX-License-Identifier: Apache-2.0
"""A crash, or a refused BPF program, as Markdown for a mail or an issue: read as plain text it is whole as well.

What comes from a console stands in code spans and fenced blocks only, whose marks are longer than any in it: it can
neither end them, nor name people, load images or make links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kernloop.present.account import Account
from kernloop.present.refusal import Refusal, next_step, refusal_object
from kernloop.present.text import printable

__all__ = ["render", "render_refusal"]

_TICKS = re.compile(r"`+")


def render(found: Account) -> str:
    """The crash as Markdown; a part of which nothing is known is left out."""
    crash = found.crash
    head = [f"# {_code(crash.title)}", ""]
    told = [f"kind {_code(crash.kind)}"]
    told += [f"in {_code(f'{crash.function}()')}"] if crash.function else []
    told += [f"fingerprint {_code(crash.fingerprint)}"] if crash.fingerprint else []
    told += [f"on CPU {crash.cpu}"] if crash.cpu is not None else []
    told += [f"by {_code(f'{crash.comm}/{crash.pid}')}"] if crash.comm and crash.pid is not None else []
    head.append(", ".join(told) + ".")
    if crash.corrupted:
        head.append(f"The report is damaged: {crash.corrupted}.")
    parts = [
        "\n".join(head),
        _repeat(found),
        _section("Kernel", [f"- {name}: {_code(value)}" for name, value in found.kernel]),
        _config(found),
        _trace(found),
        _section("What the report says", [_part(part.heading, part.lines) for part in found.structure]),
        _section(f"Console, lines {crash.start_line} to {crash.end_line}", _block(crash.excerpt)),
        _section("Also reported", [f"- {_code(title)}" for title in found.others]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_refusal(refusal: Refusal) -> str:
    """The refusal of a BPF program as Markdown."""
    found, value = refusal.rejection, refusal_object(refusal.rejection)
    told = [f"kind {_code(value['kind'])}", f"cause {_code(found.cause_id)}"]
    told.append(f"fingerprint {_code(value['fingerprint'])}")
    place = [f"{found.source_file}:{found.source_line}: {found.source_text}"] if found.source_text else []
    instruction = [found.instruction] if found.instruction else []
    parts = [
        f"# {_code(value['title'])}\n\n{', '.join(told)}.",
        _section("The verifier", _block([found.cause, *place, *instruction, *found.registers])),
        _section("Why", [_code(found.explanation)]),
        _section("Cure", [_code(found.hint)] if found.hint else []),
        _section("Next", [_code(next_step(found))]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _repeat(found: Account) -> str:
    lines = _block(found.repeat.commands, "sh")
    if found.repeat.commands and found.repeat.folder:
        lines.append(f"\nin {_code(found.repeat.folder)}")
    if found.repeat.left_out:
        lines.append(f"\n({found.repeat.left_out} commands of that VM before these are left out)")
    return _section("How to repeat", lines)


def _config(found: Account) -> str:
    on = [f"{name}={value}" for name, value in found.config if value != "n"]
    off = [name for name, value in found.config if value == "n"]
    lines = [_code(" ".join(on))] if on else []
    return _section("Configuration", [*lines, *([f"off: {_code(' '.join(off))}"] if off else [])], "\n\n")


def _trace(found: Account) -> str:
    return _section("Trace, decoded" if found.decoded else "Trace", _block(found.trace))


def _part(heading: str, lines: Iterable[str]) -> str:
    said = list(lines)
    if len(said) == 1:
        return f"- {heading}: {_code(said[0])}"
    return "\n".join([f"- {heading}:", *(f"  - {_code(line)}" for line in said)])


def _section(title: str, lines: list[str], between: str = "\n") -> str:
    return f"## {title}\n\n{between.join(lines)}" if lines else ""


def _block(lines: Iterable[str], language: str = "") -> list[str]:
    kept = [printable(line) for line in lines]
    if not kept:
        return []
    mark = "`" * max(3, _longest(kept) + 1)
    return [f"{mark}{language}", *kept, mark]


def _code(text: str) -> str:
    said = " ".join(printable(text).split()) or " "
    mark = "`" * (_longest([said]) + 1)
    return f"{mark} {said} {mark}" if "`" in said else f"{mark}{said}{mark}"


def _longest(lines: Iterable[str]) -> int:
    return max((len(ticks) for line in lines for ticks in _TICKS.findall(line)), default=0)
