# SPDX-License-Identifier: Apache-2.0
"""`kernloop runs list / show / gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kernloop import runs, vmcores
from kernloop.cli.output import JsonFlag, escape, fail, mark, out, print_json
from kernloop.errors import HarnessError
from kernloop.vm import snapshots

app = typer.Typer(help="Run directories: all evidence of every run.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20, as_json: JsonFlag = False
) -> None:
    """The newest runs and their verdicts."""
    found = runs.listing()
    if as_json:
        print_json({"schema": "kernloop.runs/1", "total": len(found), "runs": [_row(run) for run in found[:limit]]})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "verdict", "subject", "summary"):
        table.add_column(column, no_wrap=column in ("run", "verdict"), overflow="fold")
    for run in found[:limit]:
        word = "[cyan]running[/]" if run.live else mark(run.verdict)
        table.add_row(run.id, word, escape(run.subject[:48]), escape("" if run.live else run.summary[:100]))
    out.print(table)
    if len(found) > limit:
        out.print(f"{len(found) - limit} more: --limit {len(found)}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, the beginning of one, or: last")] = "last",
    console: Annotated[bool, typer.Option("--console", help="Print its console.log instead.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write all of it to one page, and print where.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """What happened in a run."""
    try:
        path = runs.find(run)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    page = _page(path, as_json) if html else None
    if page and not as_json:
        typer.echo(page)
        return
    if console:
        log = path / "console.log"
        typer.echo(log.read_text(errors="replace") if log.exists() else "", nl=False)
        return
    summary = next(found for found in runs.listing() if found.path == path)
    timeline = runs.timeline(path)
    if as_json:
        result = runs.read_json(path / "verdict.json")
        cores = [{"path": str(core), "bytes": core.stat().st_size} for core in vmcores.of_run(path)]
        more: dict[str, Any] = {"vmcores": cores, **({"report": str(page)} if page else {})}
        print_json({"schema": "kernloop.runs-show/1", **_row(summary), "result": result, "timeline": timeline, **more})
        return
    out.print(f"[bold]{summary.id}[/]  {mark(summary.verdict)}  {escape(summary.summary)}")
    out.print(f"  kernloop {summary.verb} {escape(summary.subject)}")
    for entry in timeline:
        detail = " ".join(f"{key}={value}" for key, value in entry.items() if key not in ("t", "event"))
        out.print(f"  {entry['t']:9.3f} s  {entry['event']}  [dim]{escape(detail[:140])}[/]")
    for file in sorted(path.iterdir()):
        if not file.name.startswith("."):
            out.print(f"  {file}  {file.stat().st_size} bytes")
    if vmcores.of_run(path):
        out.print(f"  [bold]next:[/] kernloop debug triage {summary.id}")


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest finished runs to keep.")] = 50,
    boots: Annotated[bool, typer.Option("--boots", help="Also the snapshots of boots; they are made anew.")] = False,
    cores: Annotated[
        bool, typer.Option("--vmcores", help="Also the vmcores of the runs that stay: tens of MiB each.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove old runs; what is in use is never touched."""
    gone = runs.collect(keep=keep, dry_run=dry_run)
    freed = sum(run.size for run in gone)
    frozen = snapshots.trim(keep=0, dry_run=dry_run) if boots else []
    freed += sum(one.size for one in frozen)
    left = vmcores.finished(but={run.id for run in gone})
    held = sum(left.values())
    if cores:
        freed += held
        if not dry_run:
            vmcores.remove(left)
    if as_json:
        names = {"removed": [run.id for run in gone], "boots": [one.path.name for one in frozen]}
        more = {"vmcores": list(left) if cores else [], "vmcore_bytes": 0 if cores else held}
        print_json({"schema": "kernloop.runs-gc/1", **names, **more, "bytes": freed, "dry_run": dry_run})
    else:
        also = f", {len(frozen)} snapshots of boots" if boots else ""
        also += f", the vmcores of {len(left)} more" if cores else ""
        out.print(f"{'would remove' if dry_run else 'removed'} {len(gone)} runs{also}, {freed >> 10} KiB")
        if held and not cores:
            out.print(f"{len(left)} runs keep vmcores of {held >> 20} MiB: --vmcores")


def _page(path: Path, as_json: bool) -> Path:
    from kernloop.present.html import write  # jinja2 takes 60 ms to import

    try:
        return write(path)
    except OSError as error:
        wrong = HarnessError(f"cannot write the page into {path}: {error.strerror}", hint="free some space; see df")
        raise fail(wrong, as_json=as_json) from None


def _row(run: runs.Summary) -> dict[str, Any]:
    return {
        "id": run.id,
        "path": str(run.path),
        "verb": run.verb,
        "subject": run.subject,
        "verdict": run.verdict,
        "summary": run.summary,
        "age_seconds": round(run.age),
        "bytes": run.size,
        "live": run.live,
    }
