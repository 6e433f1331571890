# SPDX-License-Identifier: Apache-2.0
"""`kernloop kernel patch`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json
from kernloop.errors import HarnessError, UsageError
from kernloop.verdict import Verdict

if TYPE_CHECKING:
    from kernloop.git.ready import PatchResult
    from kernloop.git.rejects import HunkReport

__all__ = ["patch"]

_SCHEMA = "kernloop.kernel-patch/1"
# Findings that people are shown; --json has all.
_MOST = 20


def patch(
    tree: Annotated[Path, typer.Argument(metavar="DIR", help="The top of a kernel tree, in git or not.")],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A diff, a mail or an mbox; - is stdin.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take back what the last one did here.")] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Other files may have changes that are not committed.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it would apply.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Apply a patch or mbox to a tree, all of it or nothing; undo it.

    0: applied, or it would be. 1: it does not apply, and the tree is as it was. 2: bad input, or the tree is not ready.
    """
    from kernloop.git import patch as library

    try:
        if undo == bool(file):
            raise UsageError("kernel patch takes a patch, or --undo", hint="kernloop kernel patch DIR FILE")
        if undo and check:
            raise UsageError("--check and --undo are two things", hint="leave one out")
        if undo:
            result = library.undo(tree, allow_dirty=allow_dirty)
        else:
            result = library.apply(tree, _read(file), allow_dirty=allow_dirty, check=check)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    verdict = Verdict.REJECTED if result.state == "rejected" else Verdict.PASS
    code = 1 if verdict is Verdict.REJECTED else 0
    if as_json:
        print_json(_json(result, verdict, code))
    else:
        _show(result, verdict)
    raise typer.Exit(code)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", hint="name a file, or - for stdin") from None


def _json(result: PatchResult, verdict: Verdict, code: int) -> dict[str, Any]:
    value = asdict(result)
    head = {key: value.pop(key) for key in ("state", "summary", "next")}
    return {"schema": _SCHEMA, "verdict": verdict.value, **head, "exit_code": code, **value, "tree": str(result.tree)}


def _show(result: PatchResult, verdict: Verdict) -> None:
    out.print(f"{mark(verdict)}  {escape(result.summary)}")
    for fate in result.messages:
        if result.mode == "commits":
            out.print(f"  {fate.commit[:12] or fate.state:<15}  {escape(fate.subject)}")
    if result.reject:
        for line in result.reject.said.splitlines()[:4]:
            out.print(f"  [dim]git:[/] {escape(line)}")
        for hunk in result.reject.hunks:
            _show_hunk(hunk)
        if result.reject.three_way:
            out.print(f"  three-way merge: {escape(result.reject.three_way)}")
        for name, region in result.reject.regions:
            out.print(f"  {escape(name)}, the tree has:")
            for sign, lines in (("<", region.ours), (">", region.theirs)):
                if sign == ">":
                    out.print("    and the patch wants:")
                for line in lines:
                    out.print(f"    {sign} {escape(line)}")
    for finding in result.findings[:_MOST]:
        place = f"{finding.file}:{finding.line}" if finding.file else f"message {finding.commit[:12]}".rstrip()
        out.print(f"  {escape(place)}: {finding.level} {finding.type}: {escape(finding.message)}")
    if len(result.findings) > _MOST:
        out.print(f"  {len(result.findings) - _MOST} findings more: --json")
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    if result.next:
        err.print(f"  [bold]next:[/] {escape(result.next)}")


def _show_hunk(hunk: HunkReport) -> None:
    at = f"{hunk.file}, hunk {hunk.number} of {hunk.total}, for line {hunk.wanted}"
    out.print(f"  {escape(at)}: {hunk.status}, {escape(hunk.message)}")
    for difference in hunk.differences:
        out.print(f"    line {difference.line}")
        for line in difference.wanted:
            out.print(f"      the patch wants  {escape(line)}")
        for line in difference.found:
            out.print(f"      the file has     {escape(line)}")
