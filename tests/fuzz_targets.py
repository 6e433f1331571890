# SPDX-License-Identifier: Apache-2.0
"""What must hold of each parser for any bytes whatever: the same checks for hypothesis and for atheris.

A check raises when it does not hold. What is drawn in it (where the pieces of a stream end) is drawn from the bytes, so
a failure repeats.
"""

from __future__ import annotations

import lzma
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kernloop.report import compiler, ktap, pstore, scx, scx_dump, verifier
from kernloop.report.advice import next_step
from kernloop.report.causes import causes
from kernloop.report.crash import Crash
from kernloop.report.engine import parse_console
from kernloop.report.frames import parse_frame, rip_function
from kernloop.report.hang import hang
from kernloop.report.lines import read_line
from kernloop.report.oops_table import HEADERS, match_header, may_hold_header
from kernloop.report.scan import ConsoleScanner, scan
from kernloop.report.scx_report import scx_report
from kernloop.sched.obj import decode, load
from kernloop.sched.obj.btf import Btf, BtfError
from kernloop.sched.obj.decode import DecodeError, Known

__all__ = ["TARGETS", "Target", "in_pieces", "signature"]

FIXTURES = Path(__file__).parent / "fixtures"
# A seed is as long as what a fuzzer changes; in front of a crash is a bit of what comes before one.
_SEED, _BEFORE = 4000, 400


@dataclass(frozen=True)
class Target:
    """`seeds` are of our own recordings, `words` what the parser looks for."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[str, ...] = ()


def signature(crash: Crash) -> tuple[object, ...]:
    """What must be the same wherever in a stream a report stands."""
    return (crash.kind, crash.title, crash.function, crash.corrupted, crash.fingerprint, crash.end - crash.start)


def in_pieces(data: bytes, cuts: Iterable[int]) -> list[Crash]:
    """The crashes of `data` when it comes in pieces; each as it is in the end."""
    scanner, latest = ConsoleScanner(), dict[int, Crash]()
    for begin, end in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        latest |= {crash.start: crash for crash in scanner.feed(data[begin:end])}
    latest |= {crash.start: crash for crash in scanner.finish()}
    return [latest[start] for start in sorted(latest)]


def console(data: bytes) -> None:
    crashes = list(scan(data))
    draw = random.Random(zlib.crc32(data))
    assert in_pieces(data, [draw.randrange(len(data) + 1) for _ in range(draw.randrange(8))]) == crashes
    by_line = parse_console(data.decode("utf-8", "replace").split("\n"))
    assert [signature(crash)[:-1] for crash in by_line] == [signature(crash)[:-1] for crash in crashes]
    for crash in crashes:
        assert 0 <= crash.start < crash.end <= len(data) + 1
        assert crash.start == 0 or data[crash.start - 1 : crash.start] == b"\n"
        assert data.count(b"\n", 0, crash.start) + 1 == crash.start_line <= crash.end_line
        assert crash.title
        assert next_step(crash)
    assert len(causes(crashes)) == len(crashes)
    if crashes:
        found_again(data, crashes)


def found_again(data: bytes, crashes: list[Crash]) -> None:
    """From its own start the first report is the same; behind its end it is not, unless it was said twice."""
    first = crashes[0]
    again = next(scan(data[first.start :]), None)
    assert again is not None
    assert signature(again) == signature(first)
    starts = {crash.start for crash in crashes}
    for later in scan(data[first.end :]):
        assert later.title != first.title or first.end + later.start in starts


def one_line(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for raw in text.split("\n"):
        line = read_line(raw)
        assert "\r" not in line.text
        assert "\x1b[" not in line.text
        assert (match_header(raw) is not None) <= may_hold_header(raw)
        parse_frame(line.text)
        rip_function(line.text)


def verifier_log(data: bytes) -> None:
    verifier.parse_rejection(data.decode("utf-8", "replace"))


def scx_exit(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = scx.parse_loader_stderr(text)
    events = scx.parse_kmsg(text.split("\n"))
    dump = scx_dump.parse_dump(found.dump if found and found.dump else text)
    scx_report(text, loader=text)
    for message in [found.message if found else text, *(event.message for event in events)]:
        scx.match_message(message)
        scx_dump.guilty_task(message, dump)
    for task in dump.tasks:
        assert scx_dump.explain_placement(task)


def hung(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = hang(text.split("\n"), registers=text, symbol=hex)
    assert found is None or found.summary
    said = {cpu.cpu for cpu in found.cpus} if found else set()
    assert not said or len(said) == len(found.cpus if found else ())


def bpf_types(data: bytes) -> None:
    try:
        found = Btf(data)
    except BtfError:
        return
    for type_id in range(len(found)):
        try:
            found.type(type_id)
            found.size(type_id)
            found.spell(type_id)
            found.member(type_id, "in")
        except BtfError:
            continue


def bpf_code(data: bytes) -> None:
    try:
        insns = decode.decode(data, Known())
    except DecodeError:
        return
    assert sum(block.end - block.start for block in decode.blocks(insns)) == len(insns)


def pstore_memory(data: bytes) -> None:
    layout = pstore.Layout(0, len(data), 2048, 1024, 512, 0)
    records = [*pstore.read_erst(data), *pstore.read_ramoops(data, layout)]
    assert pstore.erst_count(data) or not [record for record in records if record.store == "erst"]
    for record in pstore.dumps(records):
        pstore.lost(["[    7.1] ok"], {record.name: pstore.plain(record.text)})


def ktap_stream(data: bytes) -> None:
    lines = data.decode("utf-8", "replace").split("\n")
    parser = ktap.KtapParser()
    for line in lines:
        parser.feed(line)
        assert parser.next_number is not None
    report = parser.finish()
    assert report == ktap.parse(lines)
    assert report.totals.all == sum(1 for _ in ktap.leaves(report.tests))


def compiler_output(data: bytes) -> None:
    found = compiler.parse(data.decode("utf-8", "replace").split("\n"))
    assert not compiler.new(found, found)
    for diagnostic in found:
        assert diagnostic.line is None or diagnostic.line >= 0


def _logs(pattern: str) -> Iterator[bytes]:
    for path in sorted(FIXTURES.glob(pattern)):
        if path.is_file():
            yield path.read_bytes()


def _crash_logs() -> Iterator[bytes]:
    for log in _logs("console/*.log"):
        crashes = list(scan(log))
        yield from (log[max(0, crash.start - _BEFORE) :][:_SEED] for crash in crashes)
        if not crashes:
            yield log[-_SEED:]


def _ends(pattern: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (part for log in _logs(pattern) for part in {log[:_SEED], log[-_SEED:]})


# A store's header and its first records, and memory in the middle of which records begin.
def _stores() -> Iterator[bytes]:
    for path in sorted(FIXTURES.glob("pstore/*.xz")):
        store = lzma.decompress(path.read_bytes())
        yield from (store[:_SEED], *(store[at : at + _SEED] for at in range(0, len(store), 1 << 14) if store[at]))


def _single_lines() -> Iterator[bytes]:
    for log in _logs("console/*.log"):
        yield b"\n".join(log.split(b"\n")[::25])[:_SEED]


_KTAP = ("TAP version 13", "KTAP version 1", "1..", "ok 1 ", "not ok 1 ", "# Subtest: ", " # SKIP", "Bail out!", "    ")
_COMPILER = (
    ": error: ",
    ": warning: ",
    ": note: ",
    "ld.lld: error: ",
    ">>> ",
    "make[2]: *** [",
    "In file included from ",
)
_PREFIXES = ("[    7.123456] ", "[    7.123456][   T42] ", "[    7.123456][    C1] ", "<4>", "---[ end trace ")
_HANG = ("sysrq: Show State", "NMI backtrace for cpu 1", "task:kl state:D pid:7 ", "</IRQ>", "1 lock held by kl/7:")
_TRACE = ("Call Trace:", " <TASK>", " kl_f+0x1/0x2", "RIP: 0010:kl_f+0x1/0x2", "? ", "Modules linked in: ")


def _programs() -> Iterator[bytes]:
    for path in sorted((FIXTURES / "objects").glob("*.xz")):
        obj = load.read(lzma.decompress(path.read_bytes()), path)
        for program in obj.programs.values():
            rows = ((i.code, i.dst | i.src << 4, i.off, i.imm) for i in program.insns if i.code != decode.LD_IMM64)
            yield b"".join(struct.pack("<BBhi", *row) for row in rows)[:_SEED]


TARGETS: dict[str, Target] = {
    "console": Target(console, _crash_logs, (*HEADERS, *_PREFIXES, *_TRACE)),
    "line": Target(one_line, _single_lines, (*_PREFIXES, *_TRACE, "\x1b[0;1m", "** 3 printk messages dropped ** ")),
    "verifier": Target(verifier_log, _ends("verifier/*/*"), ("processed ", "-- BEGIN PROG LOAD LOG --", "R1_w=", "; ")),
    "scx": Target(scx_exit, _ends("scx/*.log"), ("DEBUG DUMP", "EXIT: ", "CPU 0 : ", "dsq_id=", "sched_ext: ")),
    "hang": Target(hung, _ends("hang/*"), (*_HANG, *_TRACE)),
    "pstore": Target(pstore_memory, _stores, ("Panic#1 Part1\n", "Oops#2 Part1\n", "====1.000001-D\n", "CPER", "DBGC")),
    "ktap": Target(ktap_stream, _ends("ktap/*.log"), _KTAP),
    "btf": Target(bpf_types, _ends("objects/*.btf"), ("\x01\0\0\0", "\0\0\0\x04", "int\0")),
    "bpf": Target(bpf_code, _programs, ("\x18\0\0\0", "\x05\0\x01\0\0\0\0\0", "\0" * 8)),
    "compiler": Target(compiler_output, _ends("compiler/*.txt"), _COMPILER),
}
