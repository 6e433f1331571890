# SPDX-License-Identifier: Apache-2.0
"""The same report under whatever printk, dmesg, a log daemon or a terminal put before its lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crashes import CPU, EXAMPLES, TRAP
from kernloop.report.engine import parse_console
from kernloop.report.lines import Line, read_line

STYLES: dict[str, Callable[[str, int], str]] = {
    "time": lambda text, n: f"[{7 + n / 1e6:12.6f}] {text}",
    "time and caller": lambda text, n: f"[{7 + n / 1e6:12.6f}][  T123] {text}",
    "caller": lambda text, n: f"[    C1] {text}",
    "level": lambda text, n: f"<4>{text}",
    "level and time": lambda text, n: f"<4>[{7 + n / 1e6:12.6f}] {text}",
    "/dev/kmsg": lambda text, n: f"4,{n},{7_000_000 + n},-,caller=T123;{text}",
    "dmesg -T": lambda text, n: f"[Sat Nov 21 20:15:09 2026] {text}",
    "dmesg -e": lambda text, n: f"[  +0.000012] {text}",
    "dmesg -d": lambda text, n: f"[{7 + n / 1e6:12.6f} <    0.000012>] {text}",
    "dmesg -x": lambda text, n: f"kern  :warn  : [{7 + n / 1e6:12.6f}] {text}",
    "syslog": lambda text, n: f"Nov 21 20:15:09 vm kernel: [{7 + n / 1e6:12.6f}] {text}",
    "rsyslog": lambda text, n: f"2026-11-21T20:15:09.123456+00:00 vm kernel: [{7 + n / 1e6:12.6f}] {text}",
    "journalctl -k": lambda text, n: f"Nov 21 20:15:09 vm.example kernel: {text}",
    "journalctl -o short-full": lambda text, n: f"Sat 2026-11-21 20:15:09 UTC vm kernel: {text}",
    "journalctl -o short-monotonic": lambda text, n: f"[{7 + n / 1e6:12.6f}] vm kernel: {text}",
    "journalctl -o short-unix": lambda text, n: f"1795292109.123456 vm kernel: {text}",
    "a CI's time": lambda text, n: f"2026-11-21T20:15:09.1234567Z [{7 + n / 1e6:12.6f}] {text}",
    "a terminal's time": lambda text, n: f"[2026-11-21 20:15:09] [{7 + n / 1e6:12.6f}] {text}",
    "CR LF": lambda text, n: f"[{7 + n / 1e6:12.6f}] {text}\r",
    "colours": lambda text, n: f"\x1b[32m[{7 + n / 1e6:12.6f}] \x1b[0m{text}\x1b[0m",
    "lost newlines": lambda text, n: f"login: [{7 + n / 1e6:12.6f}] {text}",
}


@pytest.mark.parametrize("style", STYLES)
def test_every_kind_is_told_under_every_prefix(style: str) -> None:
    for header, body, kind, _, function in EXAMPLES:
        lines = [STYLES[style](text, number) for number, text in enumerate((header, *body))]
        found = parse_console(lines)
        assert [(crash.kind, crash.function) for crash in found[:1]] == [(kind, function)], header


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("[    T1] hello", Line("hello", None, "T1")),
        ("6,1234,5123456,-;hello", Line("hello", 5.123456, None, 6)),
        ("6,1234,5123456,c,caller=C1;hello", Line("hello", 5.123456, "C1", 6)),
        ("Nov 21 20:15:09 vm kernel: hello", Line("hello", kernel=True)),
        ("Nov 21 20:15:09 vm sshd[42]: hello", Line("Nov 21 20:15:09 vm sshd[42]: hello")),
        ("[    5.123456] vm kernel: hello", Line("hello", 5.123456)),
        ("[    5.123456] vm sshd[42]: hello", Line("vm sshd[42]: hello")),
        ("[    5.123456] systemd[1]: hello", Line("systemd[1]: hello", 5.123456)),
        ("kern  :err   : [    5.123456] hello", Line("hello", 5.123456, None, 3)),
        ("[    5.12[    5.123456] hello", Line("hello", 5.123456)),
        ("my program[    5.123456][    C0] hello", Line("hello", 5.123456, "C0")),
        ("my program [1.5] hello", Line("my program [1.5] hello")),
    ],
)
def test_what_stands_before_a_line_is_taken_off(raw: str, line: Line) -> None:
    assert read_line(raw) == line


def test_a_line_that_another_cpu_cut_is_no_part_of_the_report() -> None:
    lines = ["[    7.000001][  T123] kernel BUG at lib/kl.c:7!", *(f"[    7.000002][  T123] {text}" for text in TRAP)]
    cut = "[    7.000002][    C1] irq 7: nob[    7.000002][  T123] Hardware name: QEMU"
    (crash,) = parse_console([*lines[:3], cut, *lines[3:]])
    assert (crash.kind, crash.function, crash.corrupted) == ("kernel-bug", "kl_guilty", "")


def test_two_cpus_that_report_at_once_are_told_apart() -> None:
    def of(caller: str, name: str) -> list[str]:
        body = [text.replace("kl_guilty", name) for text in ("kernel BUG at lib/kl.c:7!", CPU, *TRAP[1:])]
        return [f"[    7.000001][{caller:>6}] {text}" for text in body]

    mixed = [line for pair in zip(of("T1", "kl_one"), of("T2", "kl_two"), strict=True) for line in pair]
    assert [crash.function for crash in parse_console(mixed)] == ["kl_one", "kl_two"]
