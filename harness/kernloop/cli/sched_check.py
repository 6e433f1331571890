# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, mark, out, print_json, progress
from kernloop.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from kernloop.sched.check.files import Checked
    from kernloop.sched.check.finding import Finding
    from kernloop.sched.check.table import Rule

__all__ = ["check", "finding_json", "print_finding"]

_SCHEMA = "kernloop.sched-check/1"
_COLOURS = {"must": "bold red", "may": "yellow", "unknown": "dim"}
_WORDS = {"must": "must", "may": "may", "unknown": "undecided"}


def check(
    file: Annotated[Path | None, typer.Argument(help="A scheduler's .bpf.c or .bpf.o.")] = None,
    kernel: Annotated[
        str | None, typer.Option(help="For this kernel: debian:7.2, tree:DIR ...; a source's default is the newest.")
    ] = None,
    explain: Annotated[str, typer.Option(metavar="RULE", help="What a rule is about, and how to cure it.")] = "",
    rules: Annotated[bool, typer.Option("--rules", help="All rules, a line each.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """The usual mistakes, found in the compiled scheduler.

    What the BPF verifier lets through: tasks lost, queues that nobody drains, wrong CPUs. No VM is started. 0: nothing
    that must be cured; undecided is no pass. 1: it must, or it does not compile. 2: bad input. 125: kernloop failed.
    """
    try:
        if rules or explain:
            _tell(explain, as_json)
            return
        if file is None:
            raise UsageError("give a scheduler's .bpf.c or .bpf.o", hint="kernloop sched check --rules lists the rules")
        from kernloop.sched.check import files

        with progress(quiet=as_json) as say:
            checked = files.check_file(file, kernel, say)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    value = _verdict(checked)
    if as_json:
        print_json(value)
    else:
        _show(checked, value)
    raise typer.Exit(value["exit_code"])


def _verdict(checked: Checked) -> dict[str, Any]:
    from kernloop.sched.check.check import summary

    head: dict[str, Any] = {"schema": _SCHEMA, "subject": str(checked.subject), "kernel": checked.kernel}
    broken = checked.errors
    if broken:
        first = broken[0]
        text = f"{first.file}:{first.line}:{first.column}: {first.message}"
        step = f"correct {checked.subject}, line {first.line}"
        found = [
            {"file": one.file, "line": one.line, "column": one.column, "message": one.message, "source": one.source}
            for one in broken
        ]
        if checked.findings:
            from kernloop.sched.check.drift import told

            text, step = told(checked.findings)
        verdict = {"verdict": "build-failed", "summary": text, "next": step, "exit_code": 1}
        findings = [finding_json(checked.subject, one) for one in checked.findings]
        return {**head, **verdict, "findings": findings, "diagnostics": found}
    must = [one for one in checked.findings if one.level == "must"]
    verdict = {
        "verdict": "rejected" if must else "unknown" if checked.findings else "pass",
        "summary": summary(checked.findings),
        "next": _next(checked),
        "exit_code": int(bool(must)),
    }
    findings = [finding_json(checked.subject, one) for one in checked.findings]
    return {**head, **verdict, "findings": findings, "diagnostics": []}


def _next(checked: Checked) -> str:
    sure = [one for one in checked.findings if one.level != "unknown"]
    if not sure:
        return f"kernloop verify {checked.subject}"
    first = sure[0]
    if not first.file:
        return first.cure if first.level == "must" else f"kernloop verify {checked.subject}"
    if first.level == "must":
        return f"{first.file}:{first.line}: {first.cure}"
    return f"look at {first.file}:{first.line}, then kernloop verify {checked.subject}"


def finding_json(subject: Path, finding: Finding) -> dict[str, Any]:
    """A finding as JSON: with the number of its mistake, and the lines about it."""
    from dataclasses import asdict

    from kernloop.sched.check.files import excerpt
    from kernloop.sched.check.table import rules

    rule = rules()[finding.rule]
    lines = [asdict(one) for one in excerpt(subject, finding)]
    return {**asdict(finding), "title": rule.title, "mistake": rule.mistake or None, "excerpt": lines}


def _show(checked: Checked, value: dict[str, Any]) -> None:
    out.print(f"{mark(value['verdict'])}  {escape(value['summary'])}")
    for one in checked.unexplained[:5]:
        out.print(f"  {escape(f'{one.file}:{one.line}:{one.column}: {one.message}')}")
        out.print(f"      {escape(one.source)}")
    for finding in checked.findings:
        print_finding(checked.subject, finding)
    if value["next"]:
        err.print(f"  [bold]next:[/] {escape(value['next'])}")


def print_finding(subject: Path, finding: Finding) -> None:
    """A finding for people: where, the lines about it, why, the cure."""
    from kernloop.sched.check.files import excerpt
    from kernloop.sched.check.table import rules

    place = f"{finding.file}:{finding.line}" if finding.line else finding.file or str(subject)
    inside = f" in {finding.program}" if finding.program else ""
    colour = _COLOURS[finding.level]
    title = rules()[finding.rule].title
    text = f"{place}: {title}{inside}  [{finding.rule}]"
    out.print(f"[{colour}]{_WORDS[finding.level]}[/]  {escape(text)}")
    if finding.level != "unknown":
        for one in excerpt(subject, finding):
            sign = ">" if one.line == finding.line else " "
            out.print(f"  {sign} {one.line:4} {escape(one.text.expandtabs())}")
    out.print(f"  why   {escape(finding.why)}")
    for place_ in finding.related:
        out.print(f"        {escape(f'{place_.file}:{place_.line}: {place_.note}: {place_.source}')}")
    if finding.level != "unknown":
        out.print(f"  cure  {escape(finding.cure)}")


def _tell(name: str, as_json: bool) -> None:
    from kernloop.sched.check.table import rules

    known = rules()
    if name and name not in known:
        raise UsageError(f"there is no rule {name!r}", hint="kernloop sched check --rules lists them")
    chosen = [known[name]] if name else list(known.values())
    if as_json:
        from dataclasses import asdict

        print_json({"schema": "kernloop.sched-rules/1", "rules": [asdict(rule) for rule in chosen]})
        return
    for rule in chosen:
        if name:
            _explain(rule)
        else:
            number = f"mistake {rule.mistake}" if rule.mistake else ""
            out.print(
                f"{rule.id:24} {'exact' if rule.exactness == 'E' else 'heuristic':10} {number:11} {escape(rule.title)}"
            )


def _explain(rule: Rule) -> None:
    out.print(f"[bold]{rule.id}[/]  {escape(rule.title)}")
    sure = "exact: decided from the object" if rule.exactness == "E" else "heuristic: a finding may be wrong"
    number = f"; number {rule.mistake} of the usual mistakes" if rule.mistake else ""
    out.print(f"  {sure}{number}; since Linux {rule.since}")
    out.print(f"  why          {escape(rule.why)}")
    out.print(f"  at run time  {escape(rule.at_run_time)}" + (f" ({rule.kind})" if rule.kind else ""))
    out.print(f"  cure         {escape(rule.cure)}")
