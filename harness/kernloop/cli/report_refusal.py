# SPDX-License-Identifier: Apache-2.0
"""`kernloop report` on a log that holds no crash but a BPF program that was refused."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from kernloop.cli.output import out
from kernloop.present.refusal import Refusal, next_step, refusal_object

__all__ = ["print_refusal", "with_refusal"]


def with_refusal(value: dict[str, Any], refusal: Refusal | None) -> dict[str, Any]:
    """The JSON of a log with a refusal in it: in the place of a crash's, behind all crashes where all are asked for."""
    if refusal is None:
        return value
    told = {"source": refusal.source, **refusal_object(refusal.rejection), "next": next_step(refusal.rejection)}
    if "reports" in value:
        return {**value, "reports": [*value["reports"], {"schema": "kernloop.report/1", **told}]}
    return {**value, **told}


def print_refusal(refusal: Refusal) -> None:
    """A refusal for people."""
    found = refusal.rejection
    value = refusal_object(found)
    out.print(f"[bold red]{escape(value['title'])}[/]")
    out.print(f"  kind verifier, cause {found.cause_id}, fingerprint {value['fingerprint']}")
    out.print(f"  {escape(refusal.source)}: {escape(found.cause)}")
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
