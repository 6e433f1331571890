# SPDX-License-Identifier: Apache-2.0
"""What the BPF verifier and libbpf said of programs that real kernels refused, in the old and the new format."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.verifier import Rejection, parse_rejection

VERIFIER = Path(__file__).parent.parent / "fixtures" / "verifier"
LOGS = sorted(VERIFIER.glob("*/*.log"))
KERNELS = ["6.17.13", "7.3.4"]


def rejection(kernel: str, name: str) -> Rejection:
    found = parse_rejection((VERIFIER / kernel / f"{name}.log").read_text())
    assert found is not None
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "cause", "kind", "place", "source"),
    [
        ("nonull", "R0 invalid mem access 'map_value_or_null'", "verifier", "nonull.bpf.c:11", "*count += 1;"),
        (
            "prev",
            "R1 invalid mem access 'trusted_ptr_or_null_'",
            "verifier",
            "prev.bpf.c:13",
            'bpf_printk("%d", prev->pid);',
        ),
        (
            "bounds",
            "R5 max value is outside of the allowed memory range",
            "verifier",
            "bounds.bpf.c:9",
            "table[p->pid & 31]++;",
        ),
        (
            "leak",
            "Unreleased reference id=3 alloc_insn=4",
            "verifier",
            "leak.bpf.c:8",
            "struct task_struct *t = bpf_task_from_pid(p->pid);",
        ),
        ("inf", "infinite loop detected at insn 0", "complexity", "inf.bpf.c:9", "for (;;)"),
        (
            "license",
            "cannot call GPL-restricted function from non-GPL compatible program",
            "license",
            "common.bpf.h:567",
            "const struct task_struct *p = bpf_get_current_task_btf();",
        ),
    ],
)
def test_both_formats_give_the_same_cause_and_place(
    kernel: str, name: str, cause: str, kind: str, place: str, source: str
) -> None:
    found = rejection(kernel, name)
    assert (found.cause, found.kind) == (cause, kind)
    assert f"{found.source_file}:{found.source_line}" == place
    assert found.source_text == source
    assert found.program
    assert found.insns_processed
    assert found.instruction
    assert found.hint


def test_the_new_format_adds_the_kernels_reason_and_suggestion() -> None:
    found = rejection("7.3.4", "nonull")
    assert found.reason.startswith("R0 may be NULL here (a nullable map value pointer).")
    assert found.suggestion.startswith("Add a NULL check before the access")
    old = rejection("6.17.13", "nonull")
    assert (old.reason, old.suggestion) == ("", "")


def test_a_real_scheduler_refused_by_7_3_has_one_cause_and_one_line() -> None:
    found = rejection("7.3.4", "qmap")
    assert found.program == "qmap_dequeue"
    assert found.cause == "R7 invalid mem access 'scalar'"
    assert (found.source_file, found.source_line, found.insns_processed) == ("scx_qmap.bpf.c", 336, 71)
    assert "R7=scalar()" in found.register_states


def test_a_leak_is_placed_where_the_reference_was_taken() -> None:
    for kernel in KERNELS:
        assert rejection(kernel, "leak").instruction.startswith("4: (85) call bpf_task_from_pid#")


def test_a_sleeping_kfunc_is_refused_in_the_words_of_each_kernel() -> None:
    assert rejection("6.17.13", "sleep").cause.startswith("program must be sleepable to call sleepable kfunc")
    assert rejection("7.3.4", "sleep").cause == "calling kernel function scx_bpf_create_dsq is not allowed"


@pytest.mark.parametrize("kernel", KERNELS)
def test_failures_without_a_log_are_told_by_libbpf(kernel: str) -> None:
    missing = rejection(kernel, "ksym")
    assert missing.kind == "relocation"
    assert missing.cause == "extern (func ksym) 'scx_bpf_no_such_kfunc': not found in kernel or module BTFs"
    assert rejection(kernel, "proto").kind == "btf"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("libbpf: failed to find kernel BTF type ID of 'sched_ext_ops': -3", "btf"),
        ("libbpf: failed to open system Kconfig", "other"),
        ("libbpf: prog 'x': BPF program load failed: -EPERM", "other"),
        ("0: (85) call bpf_foo#999\nunknown func bpf_foo#999\nprocessed 1 insns (limit 1000000)", "relocation"),
        ("BPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns (limit 1000000)", "complexity"),
        ("The sequence of 8193 jumps is too complex.\nprocessed 9000 insns (limit 1000000)", "complexity"),
    ],
)
def test_other_failures_have_their_kind(text: str, kind: str) -> None:
    found = parse_rejection(text)
    assert found is not None
    assert found.kind == kind


def test_a_loader_that_succeeded_was_not_rejected() -> None:
    assert (
        parse_rejection("libbpf: struct_ops bad_ops: member sub_attach not found in kernel, skipping it\nload: 0\n")
        is None
    )
    assert parse_rejection("") is None


def test_a_log_without_its_end_still_has_a_cause() -> None:
    text = (VERIFIER / "6.17.13" / "nonull.log").read_text()
    found = parse_rejection(text[: text.index("processed")])
    assert found is not None
    assert found.cause == "R0 invalid mem access 'map_value_or_null'"
    assert found.insns_processed is None


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    parse_rejection(text)
    parse_rejection(f"libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n{text}\nprocessed 1 insns")


@settings(deadline=None)
@given(st.data())
def test_a_log_cut_anywhere_never_raises(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(LOGS)).read_text()
    start = data.draw(st.integers(0, len(text)))
    parse_rejection(text[start : start + data.draw(st.integers(0, 3000))])
