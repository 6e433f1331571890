# SPDX-License-Identifier: Apache-2.0
"""`kernloop report`: what a console log tells of crashes, as one report an agent can act on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from kernloop.cli import report_follow, report_forms
from kernloop.cli.output import JsonFlag, fail, out, print_json
from kernloop.cli.report_decode import find_images
from kernloop.cli.report_object import hang_in, print_crash, report_object, reports_object
from kernloop.cli.report_refusal import print_refusal, with_refusal
from kernloop.errors import HarnessError, UsageError
from kernloop.present.account import Account
from kernloop.present.logs import Log, account_of, decode_crash, found_in, from_file, read, with_lines
from kernloop.present.refusal import Refusal, refused
from kernloop.report.causes import causes
from kernloop.report.crash import Crash

if TYPE_CHECKING:
    from kernloop.report.symbols import Images

__all__ = ["report"]


def report(
    source: Annotated[
        str, typer.Argument(metavar="[FILE|-|RUN]", help="A console log, - for stdin, a run's id, or: last")
    ] = "-",
    batch: Annotated[
        bool, typer.Option("--batch", help="Take files and folders; one JSON line a file, about its first crash.")
    ] = False,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATHS]...", help="More files, with --batch.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All crashes of the log, the first cause first.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the first for a mail or an issue.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the first to a page of its own.")
    ] = None,
    explain: Annotated[
        str, typer.Option("--explain", metavar="KIND", help="How such a report is read, what to do; no log needed.")
    ] = "",
    vmlinux: Annotated[
        list[Path] | None,
        typer.Option("--vmlinux", help="A vmlinux, .ko or folder of them: files and lines. A run knows its own."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Watch a file, a run or a VM: each report when it is complete.")
    ] = False,
    seconds: Annotated[float, typer.Option("--timeout", help="With --follow: end after so many seconds.")] = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Kernel crashes in a console log: kind, guilty function, title, fingerprint, evidence.

    Exit status: 0 no crash, 1 a crash or a refused BPF program was found, 2 bad input.
    """
    try:
        if explain:
            report_forms.told(explain, as_json)
            raise typer.Exit(0)
        if batch:
            raise typer.Exit(_batch([source, *(paths or [])], vmlinux or []))
        if follow:
            raise typer.Exit(report_follow.watched(source, seconds, vmlinux or [], as_json))
        if paths:
            raise UsageError("several files", hint="give --batch for more than one file")
        log = read(source)
        images = find_images(log, vmlinux or [])
        crashes = found_in(log)
        first = _first(log, crashes, images) if markdown or html else None
        if first and html:
            report_forms.write_page(first, log.data, html)
        if first and markdown:
            report_forms.as_markdown(first)
            raise typer.Exit(1)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    shown = [(crash, decode_crash(crash, log, images)) for crash in (crashes if every else crashes[:1])]
    # A kernel that dies comes before a program that it refused.
    refusal = refused(log) if every or not crashes else None
    if as_json:
        value = reports_object(log, shown) if every else report_object(log, shown, len(crashes))
        print_json(with_refusal(value, refusal))
    elif crashes:
        for (crash, decoded), cause in zip(shown, causes(crashes), strict=False):
            print_crash(log, crash, decoded)
            if cause is not None:
                cause_of = crashes[cause.report]
                out.print(
                    f"  [yellow]follows[/] from line {cause_of.start_line}, {escape(cause_of.title)}: {cause.why}"
                )
        if len(crashes) > len(shown):
            out.print(f"{len(crashes) - len(shown)} more in this log: --all")
    elif not refusal:
        out.print(f"no crash in {escape(log.name)}")
        if hung := hang_in(log, None):
            out.print(f"  hang: {escape(hung.summary)}")
    if refusal and not as_json:
        print_refusal(refusal)
    raise typer.Exit(1 if crashes or refusal else 0)


# What a form is made of: the first crash, or else the program that was refused.
def _first(log: Log, crashes: Sequence[Crash], images: Images | None) -> Account | Refusal | None:
    return with_lines(account_of(crashes[0], log, crashes), log, images) if crashes else refused(log)


def _batch(sources: list[str], vmlinux: list[Path]) -> int:
    any_crash = False
    images = find_images(None, vmlinux)
    for path in _files(sources):
        log = from_file(path)
        first = found_in(log, 1)
        refusal = None if first else refused(log)
        any_crash = any_crash or bool(first or refusal)
        shown = [(crash, decode_crash(crash, log, images)) for crash in first]
        value = with_refusal(report_object(log, shown, len(first)), refusal)
        line = json.dumps({"path": str(path), **value}, separators=(",", ":"))
        sys.stdout.write(line + "\n")
    return 1 if any_crash else 0


def _files(sources: list[str]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.is_file())
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"no such file: {source}", hint="--batch takes console logs and folders of them")
