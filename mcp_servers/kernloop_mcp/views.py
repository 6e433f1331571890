# SPDX-License-Identifier: Apache-2.0
"""What the server `vm` answers: the weightiest first, and little enough to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp_types import CallToolResult

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import debian, refs
from kernloop.kernel.kernel import FACTS, Kernel
from kernloop.vm import client
from kernloop.vm.answers import VmInfo
from kernloop_mcp.tools import answer, decoded, in_tools

__all__ = [
    "OUTPUT_BYTES",
    "again",
    "ended",
    "excerpt",
    "job_state",
    "kernel_facts",
    "listed_kernels",
    "run_line",
    "run_verdict",
    "vm_row",
]

# Of output and console so much comes back unless more is asked for: a hex dump on a console has 1.4 bytes a token,
# and an answer stays below 2,000 tokens.
OUTPUT_BYTES = 2600
_STDERR_BYTES = 800
_EXCERPT_BYTES = 1200


def again(doing: str) -> CallToolResult:
    return answer(state="under way", doing=doing, next="the same call again waits for it")


def vm_row(info: VmInfo) -> dict[str, Any]:
    facts = info.facts
    running = [int(number) for number, state in facts.get("jobs", {}).items() if state == "running"]
    return {
        "name": info.name,
        "state": info.state,
        "release": facts.get("release") or facts.get("kernel"),
        "cpus": facts.get("cpus"),
        "memory_mib": facts.get("memory"),
        "seed": facts.get("seed"),
        "uptime": facts.get("uptime"),
        "jobs_running": running,
        "reports": facts.get("reports", [])[-5:],
        "console_bytes": facts.get("console_bytes"),
        "run": info.run.name,
    }


def run_line(run: runs.Summary) -> str:
    return f"{run.id} {'running' if run.live else run.verdict} {run.subject[:60]}"


def ended(verdict: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": verdict.get("verdict"),
        "summary": verdict.get("summary"),
        "next": in_tools(str(verdict.get("next") or "")),
        "run": Path(str(verdict.get("run", ""))).name,
    }


# A run's verdict.json, the weightiest first.
def run_verdict(value: dict[str, Any]) -> CallToolResult:
    if "run" not in value:
        raise UsageError(str(value.get("summary")), hint=str(value.get("next") or ""))
    console = excerpt(value.get("evidence") or [])
    err = _kept(value.get("stderr"), _STDERR_BYTES)
    out = _kept(value.get("stdout"), OUTPUT_BYTES - len(console) - len(err))
    return answer(
        verdict=value.get("verdict"),
        exit_status=value.get("exit_status"),
        summary=value.get("summary"),
        next=in_tools(str(value.get("next") or "")),
        console=console,
        stdout=out,
        stderr=err,
        release=(value.get("kernel") or {}).get("guest_release"),
        run=Path(value["run"]).name,
        folder=value["run"],
    )


def _kept(stream: dict[str, Any] | None, limit: int) -> str:
    text = str((stream or {}).get("text", ""))
    size = int((stream or {}).get("bytes", 0))
    if len(text) <= limit and size <= len(text.encode()):
        return text
    return f"[the last {min(limit, len(text))} of {size} bytes]\n{text[-limit:]}"


def excerpt(evidence: list[dict[str, Any]]) -> str:
    """The console lines that the evidence names first."""
    first = next((one for one in evidence if one.get("lines")), None)
    if first is None or not Path(first["path"]).exists():
        return ""
    lines = Path(first["path"]).read_bytes().decode(errors="replace").split("\n")
    begin, end = first["lines"]
    return "\n".join(line.rstrip() for line in lines[begin - 1 : end])[:_EXCERPT_BYTES]


# A job that ended has its result on disk, whoever asks and whenever.
def job_state(vm: client.VM, job: int, stream: str, since: int, limit: int) -> CallToolResult:
    live = runs.is_live(vm.run)
    result = runs.read_json(vm.run / "jobs" / str(job) / "result.json")
    fields: dict[str, Any] = {"state": "running" if live else "lost: the VM ended first"}
    if result:
        fields = {
            "verdict": result["verdict"],
            "exit_status": result["status"],
            "summary": result["summary"],
            "next": in_tools(result["next"]),
            "reports": result["reports"],
        }
    if stream == "both":
        err = vm.output(job, "stderr", since=-_STDERR_BYTES, limit=_STDERR_BYTES)
        out = vm.output(job, "stdout", since=-(limit - len(err.data)), limit=limit)
        cut = f"vm_job({vm.name!r}, {job}) has all of it" if out.start or err.start else ""
        return answer(**fields, job=job, cut=cut, stdout=decoded(out)[0], stderr=decoded(err)[0])
    piece = vm.output(job, stream, since=since, limit=limit)
    text, cursor = decoded(piece)
    if live and not result:
        fields["next"] = f"vm_job({vm.name!r}, {job}, since={cursor})"
    return answer(**fields, job=job, cursor=cursor, more=piece.more, **{stream: text})


def listed_kernels() -> dict[str, Any]:
    cached = refs.cached()
    have = {found.release for found in cached}
    note, known = "", []
    try:
        known = debian.releases()
    except HarnessError as error:
        note = error.message
    return {
        "default": refs.DEFAULT,
        "cached": [{"ref": k.ref, "release": k.release, "sched_ext": k.has_sched_ext} for k in cached],
        "fetchable": [f"debian:{release.number}" for release in known if release.release not in have][::-1][:40],
        "note": note,
    }


def kernel_facts(found: Kernel) -> dict[str, Any]:
    return {
        "ref": found.ref,
        "release": found.release,
        "build_id": found.build_id,
        "image": str(found.image),
        "on": [symbol for symbol in FACTS if found.has(symbol)],
        "off": [symbol for symbol in FACTS if found.has(symbol) is False],
    }
