# SPDX-License-Identifier: Apache-2.0
"""`kernloop report` on a log that holds no crash but a BPF program that was refused."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from kernloop.cli.output import out
from kernloop.present.logs import Log
from kernloop.present.refusal import next_step, refusal_object
from kernloop.report.verifier import Rejection

__all__ = ["print_refusal", "with_refusal"]


def with_refusal(value: dict[str, Any], found: Rejection | None) -> dict[str, Any]:
    """The JSON of a log with a refusal in it: in the place of a crash's, behind all crashes where all are asked for."""
    if found is None:
        return value
    told = {**refusal_object(found), "next": next_step(found)}
    if "reports" in value:
        return {**value, "reports": [*value["reports"], {"schema": "kernloop.report/1", **told}]}
    return {**value, **told}


def print_refusal(log: Log, found: Rejection) -> None:
    """A refusal for people."""
    value = refusal_object(found)
    out.print(f"[bold red]{escape(value['title'])}[/]")
    out.print(f"  kind verifier, cause {found.cause_id}, fingerprint {value['fingerprint']}")
    out.print(f"  {escape(log.name)}: {escape(found.cause)}")
    if found.source_text:
        out.print(f"  | {escape(f'{found.source_file}:{found.source_line}: {found.source_text}')}")
    if found.instruction:
        out.print(f"  | {escape(found.instruction)}")
    for register in found.registers:
        out.print(f"  | {escape(register)}")
    out.print(f"  {escape(found.explanation)}")
    if found.hint:
        out.print(f"  [bold]cure:[/] {escape(found.hint)}")
    out.print(f"  [bold]next:[/] {escape(next_step(found))}")
