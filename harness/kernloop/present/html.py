# SPDX-License-Identifier: Apache-2.0
"""Pages for people: `report.html`, a run, and that of a crash in any console log.

A run's page is made from the files of the run directory alone, so it can be written when the run is judged or long
after. Either page needs nothing but itself: no script, no network, no other file.

What a guest wrote is hostile until shown otherwise: control characters are replaced, everything is escaped, and the
page's own policy forbids a browser to load or run anything.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from kernloop.present.account import Account
from kernloop.present.logs import of_verdict
from kernloop.present.plots import drawn, pulses
from kernloop.present.refusal import Refusal, next_step, refusal_object
from kernloop.present.text import blocks, printable, tail
from kernloop.runs import REPORT, read_json, timeline

__all__ = ["render", "render_log", "render_refusal", "write"]

_TAIL = 64 << 10
# Shown on the page itself, the rest is linked.
_TEXTS = {
    "ktap.log": "what the tests said",
    "stdout": "the command's standard output",
    "stderr": "standard error",
    "compiler.txt": "the compiler",
    "loader.txt": "the loader, libbpf and the verifier",
    "dump.txt": "sched_ext's debug dump",
    "registers.txt": "the vCPUs' registers",
    "qemu.stderr": "QEMU",
}
_COLOUR = {"pass": "good", "unknown": "unsure", "inconclusive": "unsure", "infra": "unsure", "lost": "unsure"}


def write(run: Path) -> Path:
    """Write the page of the run directory `run` into it, in one step; returns where."""
    staged, final = run / f".{REPORT}.new", run / REPORT
    staged.write_text(render(run), encoding="utf-8")
    staged.rename(final)
    return final


def render(run: Path) -> str:
    """The page of the run directory `run`; a file that is missing or cut off leaves its part out."""
    spec, verdict, events = read_json(run / "spec.json"), read_json(run / "verdict.json"), timeline(run)
    console = _bytes(run / "console.log")
    # Other files than the console have lines, too.
    reports = [item for item in verdict.get("evidence", []) if item.get("lines") and _is_console(item)]
    ranges = [tuple(item["lines"]) for item in reports]
    return _template("report.html.j2").render(
        id=run.name,
        verb=spec.get("verb", ""),
        subject=spec.get("subject", ""),
        # Every part of the answer by name, None where it does not apply.
        **{name: verdict.get(name) for name in _PARTS},
        word=str(verdict.get("verdict") or "unknown"),
        colour=_COLOUR.get(verdict.get("verdict") or "unknown", "bad"),
        gates={gate["after"]: gate for gate in verdict.get("gates", [])},
        facts=_facts(spec, verdict, events, run),
        argv=shlex.join(_text(run / "argv").splitlines()),
        events=[_event(event) for event in events],
        console=blocks(console, ranges),
        console_bytes=len(console),
        plots=drawn(pulses(run / "events.jsonl")),
        found=of_verdict(run, verdict, console),
        reports=reports,
        texts=[(name, what, text) for name, what in _TEXTS.items() if (text := tail(run / name, _TAIL)).strip()],
        files=_files(run, verdict),
    )


def render_log(found: Account, log: bytes) -> str:
    """The page of a crash in the console `log`, with or without a run."""
    lines = (found.crash.start_line, found.crash.end_line)
    return _template("log.html.j2").render(found=found, console=blocks(log, [lines]), console_bytes=len(log))


def render_refusal(refusal: Refusal, log: bytes) -> str:
    """The page of a BPF program that was refused, with the `log` that tells of it."""
    found = refusal.rejection
    return _template("refusal.html.j2").render(
        source=refusal.source,
        found=found,
        value=refusal_object(found),
        next=next_step(found),
        console=blocks(log, []),
        console_bytes=len(log),
    )


_PARTS = (
    "summary",
    "next",
    "kernel",
    "times",
    "function",
    "place",
    "exit_status",
    "exit_code",
    "scheduler",
    "cells",
    "repetitions",
    "tests",
    "findings",
    "cause",
    "stats",
    "during",
    "exit",
    "known",
    "guilty",
    "placement",
    "rejection",
    "diagnostics",
    "counters",
)


def _template(name: str) -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = lambda value: printable(str(value))
    return environment.get_template(name)


# What the run was made of, as pairs for people.
def _facts(
    spec: dict[str, Any], verdict: dict[str, Any], events: list[dict[str, Any]], run: Path
) -> list[tuple[str, str]]:
    start = next((event for event in events if event["event"] == "start"), {})
    tools = next((event for event in events if event["event"] == "tools"), {})
    compiler = next((event for event in events if event["event"] == "compiler"), {})
    argv = _text(run / "argv").splitlines()
    accelerator = argv[argv.index("-accel") + 1] if "-accel" in argv else None
    facts = {
        "kernloop": start.get("kernloop"),
        "QEMU": tools.get("qemu"),
        "clang": compiler.get("clang"),
        "accelerator": accelerator,
        "vCPUs": spec.get("cpus") or _machine(spec.get("topology") or {}),
        "memory": f"{spec['memory']} MiB" if spec.get("memory") else None,
        "deadline": f"{spec['timeout']:g} s" if spec.get("timeout") else None,
        "seed": spec.get("seed"),
        "an instruction takes": f"{2 ** spec['shift']} ns" if spec.get("shift") is not None else None,
        "claims": " ".join(verdict.get("claims") or spec.get("claims") or ()),
        "kernel arguments": " ".join(spec.get("append") or []),
        "files taken along": " ".join(map(str, spec.get("files") or [])),
        "loader": shlex.join([str(spec["loader"]), *spec.get("args", [])]) if spec.get("loader") else None,
        "host": start.get("host"),
        "console's sha256": verdict.get("console_sha256"),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


# Its CPUs, and how they are grouped where that was asked for.
def _machine(topology: dict[str, Any]) -> str:
    levels = [f"{topology[level]} {level}" for level in ("sockets", "dies", "cores", "threads") if topology.get(level)]
    nodes = len(topology.get("nodes") or ())
    return ", ".join([str(topology.get("cpus") or ""), *levels, *([f"{nodes} NUMA nodes"] if nodes > 1 else [])])


def _event(event: dict[str, Any]) -> tuple[float, str, str]:
    detail = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("t", "event"))
    return float(event.get("t", 0)), str(event.get("event", "")), detail


# Name, address from the page, what it shows, size. The page travels with its directory, so addresses are relative.
def _files(run: Path, verdict: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    what = {Path(item["path"]).name: item["what"] for item in verdict.get("evidence", []) if not item.get("lines")}
    there = sorted(
        file for file in run.iterdir() if file.is_file() and not file.name.startswith(".") and file.name != REPORT
    )
    return [(file.name, quote(file.name), what.get(file.name, ""), file.stat().st_size) for file in there]


def _is_console(item: dict[str, Any]) -> bool:
    return Path(item["path"]).name == "console.log"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")
