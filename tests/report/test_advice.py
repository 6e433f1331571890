# SPDX-License-Identifier: Apache-2.0
"""The table of advice: every kind is told of, in kernloop's own commands, and the skill's pages are made from it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import trees
from kernloop.kernel import fragments
from kernloop.report import kinds
from kernloop.report.advice import (
    DAMAGED,
    SILENT,
    Place,
    explain,
    groups,
    next_step,
    reference,
    topics,
)
from kernloop.report.engine import parse_console
from kernloop.report.oops_table import ROWS
from support import ROOT
from test_docs import check_words

# The kinds that a report can have, by what a checker's words can make of them.
CHECKERS = {
    kinds.kasan: ("slab-use-after-free", "slab-out-of-bounds", "null-ptr-deref", "double-free", "new words"),
    kinds.kfence: ("use-after-free", "out-of-bounds", "memory corruption", "invalid free", "new words"),
    kinds.kmsan: ("uninit-value", "kernel-infoleak", "use-after-free", "new words"),
    kinds.kcsan: ("data-race in a / b", "assert: race in a", "new words"),
    kinds.ubsan: ("array-index-out-of-bounds", "shift-out-of-bounds"),
}
FROM_TEXT = {
    make(what, access) for make, words in CHECKERS.items() for what in words for access in ("Read", "Write", "")
}
# Names that other tools have for what a console shows, or does not.
_FROM_ELSEWHERE = (
    "memory-safety-ubsan memory-safety-bug refcount-warning deadlock suspicious-rcu leak memory-leak hang dos lockdep "
    "bad-access locking-bug no-output lost-connection unexpected-reboot reboot syz-failure unhandled-fault verifier "
    "workqueue-leak stack-overflow slub atomic-sleep bug warning info other rwlock nested-lock user-panic"
)
KINDS = sorted({row.kind for row in ROWS} | FROM_TEXT | set(_FROM_ELSEWHERE.split()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_own_advice_or_its_familys(kind: str) -> None:
    found = explain(kind, function="f", place=Place("LOG", "DIR", "NAME", ("CMD",)))
    assert found.name == "other" if kind == "other" else found.name in (kind, kinds.family(kind))
    assert found.means.endswith((".", "?"))
    assert found.next
    assert not found.next.endswith(".")
    assert all((found.read, found.run, found.later, found.facts, found.docs))
    everything = [found.means, found.next, *found.read, *(step.command for step in found.run)]
    assert not [text for text in everything if re.search(r"\{(?:function|kind|report|tree|vm|command)\}", text)]


@pytest.mark.parametrize("topic", topics())
def test_commands_and_settings_are_ones_that_kernloop_takes(topic: str) -> None:
    found = explain(topic)
    for step in found.run:
        check_words(f"./{step.command}")
    for one in found.later:
        option, value = one.setting.split()[:2]
        check_words(f"./kernloop {'run' if option in ('--append', '--kernel') else 'kernel build'} {one.setting}")
        if option == "--fragment":
            assert value in fragments.available()


def test_only_a_vm_that_lives_is_asked() -> None:
    [crash] = parse_console(
        [
            "[    9.0] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [sh:7]",
            "[    9.0] CPU: 1 UID: 0 PID: 7 Comm: sh Not tainted 7.3.4 #1",
            "[    9.0] RIP: 0010:kl_spin+0x10/0x20",
            "[    9.0] Call Trace:",
            "[    9.0]  kl_ioctl+0x10/0x20",
            "[    9.0]  do_syscall_64+0x10/0x20",
        ]
    )
    assert "; then kernloop vm sysrq a 9lw" in next_step(crash, Place(vm="a"))
    assert "; then kernloop kernel build DIR" in next_step(crash, Place("LOG"))
    assert "vm sysrq" not in next_step(replace(crash, panicked=True), Place(vm="a"))


def test_there_is_advice_for_what_is_no_report_as_well() -> None:
    assert {DAMAGED, SILENT} <= set(topics())
    assert explain("never heard of").name == "other"


def test_lines_that_are_there_are_not_advised() -> None:
    [crash] = parse_console(
        [
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.0] CPU: 0 PID: 7 Comm: sh Not tainted 7.3.4 #1",
            "[    1.0] RIP: 0010:kl_get+0x10/0x20",
            "[    1.0] Call Trace:",
            "[    1.0]  kl_ioctl+0x10/0x20",
            "[    1.0]  do_syscall_64+0x10/0x20",
        ]
    )
    assert next_step(crash, Place("LOG")).endswith("then kernloop report LOG --vmlinux VMLINUX")
    assert "--vmlinux" not in next_step(crash, Place("LOG"), decoded=True)


def test_the_next_step_names_the_function_and_the_command_of_this_run() -> None:
    [crash] = parse_console(
        [
            "[    1.0] BUG: KASAN: slab-use-after-free in kl_get+0x10/0x20",
            "[    1.0] Write of size 8 at addr ffff888000000000 by task sh/7",
            "[    1.0] CPU: 0 PID: 7 Comm: sh Not tainted 7.3.4 #1",
            "[    1.0] Call Trace:",
            "[    1.0]  kl_get+0x10/0x20",
            "[    1.0]  kl_ioctl+0x10/0x20",
            "[    1.0]  do_syscall_64+0x10/0x20",
        ]
    )
    told = next_step(crash, Place("20261121-run", "linux", "", ("sh", "-c", "a b")))
    assert told.startswith("compare the three stacks")
    assert "{" not in told
    step = explain(crash.kind, function=crash.function, place=Place("", "linux", "", ("sh", "-c", "a b"))).run[-1]
    assert "kernloop bisect linux" in step.command
    assert f"--signature {crash.kind}@kl_get -- sh -c 'a b'" in step.command


def test_a_damaged_report_is_not_explained_by_what_it_might_be() -> None:
    [crash] = parse_console(["[    1.0] BUG: KASAN: slab-use-after-free in kl_get+0x10/0x20", "[    1.1] all is well"])
    assert crash.corrupted
    assert next_step(crash).startswith(explain(DAMAGED).next)


@pytest.mark.vm
def test_symbols_parameters_and_documents_are_the_kernels() -> None:
    """Looked up in the source of the default kernel."""
    tree = trees.linux()
    kconfig = "\n".join(file.read_text() for file in tree.rglob("Kconfig*") if file.is_file())
    symbols = set(re.findall(r"^\s*(?:menu)?config (\w+)$", kconfig, re.M))
    folders = [tree / "Documentation" / name for name in ("admin-guide", "dev-tools")]
    documents = [file.read_text(errors="replace") for folder in folders for file in folder.rglob("*.[rt][sx]t")]
    words = {word.rstrip(".") for text in documents for word in re.findall(r"[\w.]+", text)}
    for topic in topics():
        found = explain(topic)
        assert set(found.facts) <= symbols, topic
        for one in found.later:
            option, value = one.setting.split()[:2]
            if option == "--config":
                assert value.partition("=")[0] in symbols, one.setting
            elif option == "--append":
                word = value.partition("=")[0]
                last = word.rpartition(".")[2]
                known = last if word.startswith("sysctl.") else word
                sources = "".join((tree / file.partition(": ")[0]).read_text() for file in found.docs)
                assert known in words or re.search(rf"module_param(?:_named)?\({last},", sources), one.setting
        for document in found.docs:
            file, _, part = document.partition(": ")
            assert part in (tree / file).read_text(), document


def test_the_pages_of_the_skill_are_made_from_the_table() -> None:
    """To make them again: write `reference(group)` there."""
    folder = ROOT / "skills/panic-triage/references"
    assert {file.stem for file in folder.glob("*.md")} == set(groups())
    for group in groups():
        assert (folder / f"{group}.md").read_text() == reference(group), group
    told = "".join(map(reference, groups()))
    assert [topic for topic in topics() if f"\n## {topic}" not in told] == []
