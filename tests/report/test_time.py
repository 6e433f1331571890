# SPDX-License-Identifier: Apache-2.0
"""No text makes a parser slow: no expression has an answer that takes long, and four times the text takes four times
the time, whatever it is made of."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import kernloop.report
from attacks import attacks, expressions
from fuzz_targets import FIXTURES, TARGETS
from kernloop.report.frames import base_name
from kernloop.report.oops_table import HEADERS, ROWS
from kernloop.report.scan import ConsoleScanner, scan

# What a header's pattern is shown of a line at most (oops_table.py), a title's, and half of any other's (lines.py).
_HEADER_SIZE, _TITLE_SIZE, _LINE_SIZE = 700, 480, 2000
_SLOWEST_SECONDS = 0.04
_GIVEN_UP_SECONDS = 2.0
# Four times the text, with what a busy machine adds.
_RATIO, _NOTHING = 7.0, 0.02


class _TooSlow(BaseException):
    """Not an Exception, so that nothing between takes it for an error of its own."""


def cpu(call: Callable[[Any], object], text: str | bytes) -> float:
    began = time.process_time()
    call(text)
    return time.process_time() - began


# `re` looks for signals while it searches, so an expression that would take years ends here.
@contextmanager
def given_up(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _TooSlow:
        pytest.fail(f"not done after {seconds} s")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def all_expressions() -> dict[tuple[str, int], tuple[str, int]]:
    """By text and flags: a name, and how long a text it may meet."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    for row in ROWS:
        for what, size in ((row.patterns, _HEADER_SIZE), (row.body, _LINE_SIZE)):
            for name, text, flags in expressions(what, f"row {row.header!r}"):
                found[text, flags] = (name, size)
    for module in pkgutil.walk_packages(kernloop.report.__path__, "kernloop.report."):
        size = _TITLE_SIZE if module.name.endswith(".titles") else _LINE_SIZE
        for name, text, flags in expressions(importlib.import_module(module.name), module.name.split(".")[-1]):
            found.setdefault((text, flags), (name, size))
    rows = json.loads(resources.files("kernloop.report").joinpath("data/scx_messages.json").read_text())
    return found | {(row["regex"], 0): (row["id"], _LINE_SIZE) for row in rows}


EXPRESSIONS = all_expressions()


SOURCES = {path.stem: path.read_text() for path in Path(kernloop.report.__path__[0]).rglob("*.py")}


def only_at_one_place(name: str) -> bool:
    """Whether an expression is asked if it fits where a line begins, or somewhere known, and never looked for."""
    module, _, word = name.partition(".")
    used = set(re.findall(rf"(?<!\w){word}\.(\w+)\(", SOURCES.get(module, "")))
    return bool(used) and used <= {"match", "fullmatch"}


def test_all_tables_are_looked_at() -> None:
    names = " ".join(name for name, _ in EXPRESSIONS.values())
    assert len(EXPRESSIONS) > 300
    for table in ("row 'BUG:'", "blame.", "build_table.", "ktap_line.", "verifier.", "lines."):
        assert table in names


def test_no_expression_takes_long_for_any_line() -> None:
    slow = []
    for (text, flags), (name, size) in EXPRESSIONS.items():
        compiled = re.compile(text, flags)
        search = compiled.match if only_at_one_place(name) else compiled.search
        for attack in attacks(text, flags, size):
            with given_up(_GIVEN_UP_SECONDS):
                taken = cpu(search, attack)
                if taken > _SLOWEST_SECONDS:
                    # Whatever else the machine did is not there all the time.
                    taken = min(cpu(search, attack) for _ in range(5))
            if taken > _SLOWEST_SECONDS:
                slow.append(f"{name}: {taken:.3f} s for {attack[:50]!r}...: {text}")
                break
    assert not slow, "\n".join(slow)


def test_a_name_with_many_tails_is_shortened_at_once() -> None:
    with given_up(_GIVEN_UP_SECONDS):
        assert base_name("f" + ".constprop.0" * 300) == "f"
        assert base_name("f" + ".0" * 300 + ".x") == "f" + ".0" * 300 + ".x"


# A log of `size` bytes: one line, or several, over and over. Some go on inside a report that is open.
def repeated(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit))


def after(head: bytes, unit: bytes) -> Callable[[int], bytes]:
    return lambda size: head + repeated(unit, size)


def over_and_over(unit: bytes) -> Callable[[int], bytes]:
    return after(b"", unit)


def numbered(text: str) -> Callable[[int], bytes]:
    return lambda size: "".join(text.replace("%d", str(n)) for n in range(size // len(text))).encode()


_BUG = b"[    7.1][   T42] kernel BUG at lib/kl.c:7!\n"
_FRAME = b"[    7.1][   T42]  kl_f+0x1/0x2\n"
_LOCKDEP = b"[    7.1] WARNING: possible circular locking dependency detected\n"
_OTHERS = b"".join(b"[    7.1][   T%d] BUG: KASAN: slab-use-after-free in f+0x1/0x2\n" % task for task in range(40, 60))

CONSOLES: dict[str, Callable[[int], bytes]] = {
    "many whole reports": over_and_over((FIXTURES / "console/warn-7.3.4.log").read_bytes()),
    "many panics": over_and_over(b"[    7.1] Kernel panic - not syncing: a\n"),
    "many panics of one report": after(_BUG, b"[    7.1] Kernel panic - not syncing: Fatal exception\n"),
    "headers without bodies": over_and_over(b"".join(b"[    7.1] %s a\n" % word.encode() for word in HEADERS)),
    "headers of one task without bodies": over_and_over(_BUG),
    "one line of headers": over_and_over(b"BUG: WARNING: INFO: Oops: 0000 [#1] -safe -> -unsafe lock order detected "),
    "one line of nothing": over_and_over(b"x"),
    "one line of prefixes": over_and_over(b"[    7.1] "),
    "one line of logins": over_and_over(b"BUG: a login: "),
    "one line of escapes": over_and_over(b"\x1b[0;1m"),
    "one line of carriage returns": over_and_over(b"BUG: a\r"),
    "one endless line in a report": after(_BUG, b" kl_f+0x1/0x2"),
    "lines of 4000 characters": over_and_over(b"[    7.1] WARNING: " + b"at: a.b:1 " * 400 + b"\n"),
    "endless frames": after(_BUG, _FRAME),
    "endless stale frames": after(_BUG, b"[    7.1][   T42]  ? kl_f+0x1/0x2\n"),
    "endless registers": after(_BUG, b"[    7.1][   T42] RAX: 0000000000000000 RBX: 0000000000000000\n"),
    "a report that never ends": after(_BUG, b"[    7.1][   T42] PGD 0 \n"),
    "a report that ends over and over": after(_BUG, b"[    7.1][   T42] ---[ end trace 0 ]---\n"),
    "headings without frames": after(_BUG, b"[    7.1][   T42] Call Trace:\n"),
    "other tasks talk on": after(_BUG, b"[    7.1][   T43] ok\n"),
    "a program talks on": after(_BUG, b"ok\n"),
    "many open reports": after(_OTHERS, b"".join(b"[    7.1][   T%d]  f+0x1/0x2\n" % task for task in range(40, 60))),
    "reports of ever new tasks": numbered("[    7.1][T%d] WARNING: lib/kl.c:7 at kl_f+0x1/0x2, CPU#0: a/1\n"),
    "two tasks by turns": over_and_over(_BUG + _FRAME.replace(b"T42", b"T43") + _BUG.replace(b"T42", b"T43") + _FRAME),
    "replays": over_and_over(_BUG + b"[    7.1] ** replaying previous printk message **\n"),
    "a serial port that goes": after(_BUG, b"serialport: VM disconnected\n"),
    "ejected schedulers": over_and_over(b'[    7.1] sched_ext: BPF scheduler "a" disabled (runtime error)\n'),
    "an endless chain of locks": after(_LOCKDEP, b"[    7.1] -> #1 (a){+.+.}-{3:3}:\n[    7.1]  f+0x1/0x2\n"),
    "endless held locks": after(_LOCKDEP, b"[    7.1] 1 lock held by a/1:\n[    7.1]  #0: (a){+.+.}-{3:3}, at: f\n"),
    "endless modules": after(_BUG, b"[    7.1][   T42] Modules linked in: " + b"kl_fifo " * 400 + b"\n"),
    "no bytes but zeros": over_and_over(b"\0"),
    "bytes that are no text": over_and_over(b"\xff\xfeBUG: \x80\n"),
}


def ratio(call: Callable[[bytes], object], make: Callable[[int], bytes], size: int) -> None:
    """One pair of five is enough: a busy machine's CPUs are slow for seconds, but what grows with the square of the
    size (16 times) is always too slow."""
    small, large = make(size), make(4 * size)
    pairs: list[tuple[float, float]] = []
    with given_up(60):
        call(small)  # what is compiled or cached at first
        while len(pairs) < 5:
            once = cpu(call, small)
            taken = cpu(call, large)
            if taken <= _RATIO * once + _NOTHING:
                return
            pairs.append((once, taken))
    pytest.fail(f"seconds for {len(small)} and {len(large)} bytes: {pairs}")


@pytest.mark.parametrize("name", CONSOLES)
def test_a_console_four_times_as_long_takes_four_times_as_long(name: str) -> None:
    ratio(lambda data: list(scan(data)), CONSOLES[name], 30_000)


@pytest.mark.parametrize("name", ["one line of headers", "one endless line in a report", "endless frames"])
def test_neither_does_it_in_small_pieces(name: str) -> None:
    def feed(data: bytes) -> None:
        scanner = ConsoleScanner()
        for at in range(0, len(data), 16):
            scanner.feed(data[at : at + 16])
        scanner.finish()

    ratio(feed, CONSOLES[name], 30_000)


STREAMS: dict[str, list[bytes]] = {
    "verifier": [
        b"0: (b7) r0 = 0 ; R0_w=0\n",
        b"; return 0; @ a.bpf.c:7\n",
        b"processed 1 insns (limit 1000000) max_states_per_insn 0\n",
        b"libbpf: -- BEGIN PROG LOAD LOG --\n",
        b"libbpf: prog 'a': BPF program load failed: -22\n",
        b"R1_w=((((((((",
        b"R0=1 ",
        b"Verification failed: a\n  Reason:\n",
    ],
    "scx": [
        b"EXIT: a (\n",
        b"EXIT: runtime error (a)\n",
        b"DEBUG DUMP\n" + b"=" * 80 + b"\n",
        b"CPU 0   : nr_run=1 flags=0x1\n  curr=a[1] class=b\n\n R a[1] -1ms\n      scx_state/flags=3/0x1\n\n",
        b"  a=b/c=d/e=f",
        b'sched_ext: BPF scheduler "a" disabled (runtime error)\nsched_ext: a: b\n',
        b"  SCX_EV_A: 1\n",
        b"Backtrace:\n  f+0x1/0x2\n",
    ],
    "ktap": [
        b"ok 1 a\n",
        b"not ok a # SKIP\n",
        b"1..2\n",
        b"1..999999999\nok 1 a\n",
        b"    # Subtest: a\n    1..1\n",
        b"TAP version 13\n",
        b"# Starting a\n",
        b"TEST: a\n",
        b"# talk\n",
        b"talk ok 7 talk ok 8 ",
        b"KTAP version 1\n  KTAP version 1\n    KTAP version 1\n      ok 1 a\n",
        b"# ",
    ],
    "compiler": [
        b"a.c:1:1: error: a\n",
        b"a.c:1:1: note: a\n",
        b"In file included from a.h:1:\n",
        b"                 from a.h:1:\n",
        b"a.c: In function 'f':\n",
        b"    inlined from 'f' at a.c:1:1:\n",
        b"ld.lld: error: undefined symbol: a\n>>> referenced by a.c:1\n",
        b"make[2]: *** [a: b] Error 1\n",
        b"  CC      a.o\n",
        b"a: ",
        b"*** [a: ",
    ],
    "line": [b"[    7.1] [ T1] <4>[    7.1] ok\n", b"\x1b[0m\x1b]a", b"\r", b"a login: ", b"? [<0>] "],
}


@pytest.mark.parametrize(("target", "unit"), [(target, unit) for target, units in STREAMS.items() for unit in units])
def test_other_texts_four_times_as_long_take_four_times_as_long(target: str, unit: bytes) -> None:
    ratio(TARGETS[target].check, over_and_over(unit), 20_000)


@pytest.mark.parametrize("target", TARGETS)
def test_recordings_over_and_over_take_no_longer_each(target: str) -> None:
    seeds = b"".join(TARGETS[target].seeds())
    check = TARGETS[target].check if target != "console" else lambda data: list(scan(data))
    ratio(check, lambda size: seeds[:60_000] * (size // 30_000), 30_000)
