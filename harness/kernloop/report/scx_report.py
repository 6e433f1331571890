# SPDX-License-Identifier: Apache-2.0
"""How a sched_ext scheduler ended, from all that tells of it: kernel log, loader's output, debug dump.

The kernel log has the reason and the message (kernel/sched/ext/ext.c, scx_log_sched_disable); a loader's output has the
dump as well, and so has a dump of its own file. What the message means, and what to change, is the message table's.

>>> said = 'sched_ext: BPF scheduler "kl" disabled (runnable task stall)\\nsched_ext: kl: a[7] failed to run for 5.1s'
>>> (found := scx_report(said)).reason, found.id
('runnable task stall', 'stall')
"""

from __future__ import annotations

from dataclasses import dataclass

from .crash import Crash
from .lines import read_line, split_lines
from .scx import ScxExit, make_exit, match_message, parse_kmsg, parse_loader_stderr
from .scx_dump import Dump, DumpTask, explain_placement, guilty_task, parse_dump
from .severity import Severity
from .titles import clean_title, fingerprint

__all__ = ["ScxReport", "as_crash", "scx_report"]

_DUMP_BEGINS = "triggered exit kind"
_WORD = "sched_ext"


@dataclass(frozen=True)
class ScxReport:
    """`kind` and `code` are the kernel's numbers, None where only text was seen; `id`, `cause` and `cure` are empty for
    a message that the table does not know. `task` is the one that the message is about, `placement` where it sat."""

    scheduler: str
    kind: int | None
    kind_name: str
    code: int | None
    code_text: str
    reason: str
    message: str
    id: str = ""
    cause: str = ""
    cure: str = ""
    dump: Dump | None = None
    task: DumpTask | None = None
    placement: str = ""


def scx_report(console: str, dump: str = "", loader: str = "") -> ScxReport | None:
    """The last error exit that a console tells of, or a loader's output; None where no scheduler was thrown out.

    `console` may hold a loader's output as well, or be one. `dump` is the dump where it is kept apart.
    """
    if _WORD not in console and not loader and "EXIT: " not in console:
        return None
    lines = split_lines(console)
    ends = [event for event in parse_kmsg(lines) if event.state == "disabled" and event.is_error]
    said = parse_loader_stderr(loader) or parse_loader_stderr(console)
    last = ends[-1] if ends else None
    if said is not None and (not said.is_error or (last and last.message and last.message != said.message)):
        said = None
    if not ends and said is None:
        return None
    ended: ScxExit = said or make_exit(None, None, last.reason if last else "", last.message if last else "")
    if last and not ended.message:
        ended = make_exit(ended.kind, ended.code, last.reason, last.message, ended.dump)
    known = match_message(ended.message)
    parsed = _dump(dump or ended.dump or _dump_in(lines))
    task = guilty_task(ended.message, parsed) if parsed else None
    return ScxReport(
        last.scheduler if last else "",
        ended.kind,
        ended.kind_name,
        ended.code,
        ended.code_text,
        ended.reason,
        ended.message,
        known.id if known else "",
        known.cause if known else "",
        known.cure if known else "",
        parsed,
        task,
        explain_placement(task) if task else "",
    )


def _dump(text: str) -> Dump | None:
    return parse_dump(text) if text.strip() else None


def as_crash(found: ScxReport, size: int, lines: int) -> Crash:
    """The crash of a log that has a loader's words alone, of so many bytes and lines."""
    message = f"{found.reason}: {found.message}" if found.message else found.reason
    return Crash(
        "sched-ext",
        Severity.EJECTED,
        clean_title(f'sched_ext: "{found.scheduler}" disabled ({found.reason})'),
        None,
        message,
        None,
        None,
        None,
        1,
        lines,
        (),
        (message,),
        False,
        "sched-ext",
        fingerprint=fingerprint("sched-ext", found.id or found.reason, ()),
        end=size,
    )


# A dump on the console itself (the tracepoint sched_ext_dump, or a loader that writes there), without its rules.
def _dump_in(lines: list[str]) -> str:
    begin = next((number for number, line in enumerate(lines) if _DUMP_BEGINS in line), None)
    return "" if begin is None else "\n".join(read_line(line).text for line in lines[begin:])
