# SPDX-License-Identifier: Apache-2.0
"""The other forms of `kernloop report`: a page, Markdown, and how a kind of report is read."""

from __future__ import annotations

import difflib
from pathlib import Path

from kernloop.cli.output import err, escape, out, print_json
from kernloop.errors import HarnessError, UsageError
from kernloop.present import plain
from kernloop.present.account import Account
from kernloop.present.refusal import Refusal
from kernloop.report import advice

__all__ = ["as_markdown", "told", "write_page"]


def told(kind: str, as_json: bool) -> None:
    """Print how a report of `kind` is read. Raises UsageError for what is no kind."""
    found = advice.explain(kind)
    if found.name == "other" and kind != "other":
        near = difflib.get_close_matches(kind, advice.topics(), 4, 0.3)
        raise UsageError(f"there is no kind {kind!r}", hint=f"{' '.join(near)} ...: {' '.join(advice.topics())}")
    if as_json:
        print_json({"schema": "kernloop.advice/1", "kind": kind, **plain(found)})
        return
    out.print(f"[bold]{escape(kind)}[/]: {escape(found.means)}")
    out.print(f"  [bold]first:[/] {escape(found.next)}")
    for number, step in enumerate(found.read, 1):
        out.print(f"  {number}. {escape(step)}")
    for step_ in found.run:
        out.print(f"  [bold]run:[/] {escape(step_.command)}  [dim]({escape(step_.why)})[/]")
    for one in found.later:
        out.print(f"  [bold]next time:[/] {escape(one.setting)}  [dim]({escape(one.gives)})[/]")
    out.print(f"  depends on {escape(' '.join(found.facts))}")
    out.print(f"  see {escape('; '.join(found.docs))}")


def as_markdown(found: Account | Refusal) -> None:
    """Print it for a mail or an issue."""
    from kernloop.present import markdown

    print(markdown.render_refusal(found) if isinstance(found, Refusal) else markdown.render(found), end="")


def write_page(found: Account | Refusal, log: bytes, file: Path) -> None:
    """Write its page. Raises HarnessError where it cannot be written."""
    from kernloop.present import html  # jinja2 takes 60 ms to import

    page = html.render_refusal(found, log) if isinstance(found, Refusal) else html.render_log(found, log)
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"cannot write {file}: {error.strerror}", hint="name a file in a folder of yours") from None
    err.print(f"kernloop: {escape(str(file))} has the page")
