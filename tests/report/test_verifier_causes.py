# SPDX-License-Identifier: Apache-2.0
"""Each cause of a refusal, by logs that kernels wrote of programs with that one mistake, in words with their values.

tests/fixtures/verifier/programs are the programs, loaded by load.c of that folder in guests: NAME__VARIANT makes
mistake NAME. Logs of more than 500 lines are cut in the middle; _level2 ones are of log level 2.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import bpe_openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.verifier import UNKNOWN, Rejection, parse_rejection
from kernloop.report.verifier_causes import causes, releases
from kernloop.report.verifier_facts import fill
from kernloop.report.verifier_scan import find_rejection
from kernloop.report.verifier_words import in_words

VERIFIER = Path(__file__).parent.parent / "fixtures" / "verifier"
LOGS = [log for log in sorted(VERIFIER.glob("*/*__*.log")) if not log.stem.startswith("fine__")]
FINE = sorted(VERIFIER.glob("*/fine__*.log"))
KERNELS = ["6.12.107", "7.3.4"]
# 6.12 counts frames before it looks for recursion.
OTHERWISE = {("6.12.107", "recursion__direct"): "call_depth"}
SPELT = {
    "argument_count": "Function bpf_many has 6 > 5 args\nprocessed 3 insns (limit 1000000)",
    "bad_instruction": "BPF_ALU uses reserved fields\nprocessed 0 insns (limit 1000000)",
    "callback": "callback function not static\nprocessed 3 insns (limit 1000000)",
    "global_argument": "Arg#1 type UNION in f() is not supported yet.\nCaller passes invalid args into func#1 ('f')\n"
    "processed 3 insns (limit 1000000)",
    "jit": "JIT does not support calling kernel function\nprocessed 0 insns (limit 1000000)",
    "kconfig": "libbpf: failed to open system Kconfig",
    "map_creation": "libbpf: map 'big': failed to create: -ENOMEM",
    "map_not_allowed": "tracing progs cannot use bpf_spin_lock yet\nprocessed 0 insns (limit 1000000)",
    "map_unreadable": "read from map forbidden, value_size=8 off=0 size=8\nprocessed 9 insns (limit 1000000)",
    "object_file": "libbpf: failed to open x.bpf.o: No such file or directory",
    "packet_argument": "helper access to the packet is not allowed\nprocessed 3 insns (limit 1000000)",
    "tail_call": "cannot tail call within callback\nprocessed 3 insns (limit 1000000)",
    "verifier_bug": "verifier internal error: unexpected ptr_reg\nprocessed 3 insns (limit 1000000)",
}
MOST_TOKENS = 600
ENCODING = bpe_openai.get_encoding("o200k_base")


def explained(kernel: str, name: str) -> Rejection:
    found = parse_rejection((VERIFIER / kernel / f"{name}.log").read_text())
    assert found is not None
    return found


@pytest.mark.parametrize("log", LOGS, ids=[f"{log.parent.name}-{log.stem}" for log in LOGS])
def test_the_mistake_of_each_program_is_named(log: Path) -> None:
    found = parse_rejection(log.read_text())
    assert found is not None
    assert found.cause_id == OTHERWISE.get((log.parent.name, log.stem), log.stem.split("__")[0]), found.cause
    assert found.title and found.explanation and found.hint
    assert found.program in (log.stem.removesuffix("_level2"), "")
    # Each value that a text speaks of without a doubt is there.
    assert "?" not in found.explanation
    assert "{" not in found.explanation + found.hint
    assert "[" not in found.explanation.replace("[0, 1]", "").replace("[0, 3]", "").replace("[-4095, 0]", "")


@pytest.mark.parametrize(("cause", "text"), SPELT.items(), ids=list(SPELT))
def test_a_cause_without_a_log_is_known_by_its_message(cause: str, text: str) -> None:
    found = parse_rejection(text)
    assert found is not None
    assert (found.cause_id, bool(found.explanation), bool(found.hint)) == (cause, True, True)
    assert "?" not in found.explanation


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        # Of Linux 5.4 to 6.6 (kernel/bpf/verifier.c), where 6.12 and 7.3 have others.
        ("R0 invalid mem access 'inv'", "not_a_pointer"),
        ("R0 invalid mem access 'ptr_or_null_'", "possible_null"),
        ("R1 type=inv expected=fp", "argument_type"),
        ("R1 type=map_value_or_null expected=fp", "possible_null"),
        ("arg#0 type=ctx expected=fp", "argument_type"),
        ("invalid indirect read from stack off -8+4 size 8", "uninit_stack"),
        ("invalid stack off=-520 size=8", "stack_bounds"),
        ("invalid stack type R2 off=0 access_size=8", "stack_bounds"),
        ("cannot call GPL only function from proprietary program", "gpl_only"),
        ("At program exit the register R0 has value (0x5; 0x0) should have been in (0x0; 0x1)", "return_range"),
        ("At program exit the register R0 is not a known value (ctx)", "return_pointer"),
        ("unknown func bpf_task_storage_get#156", "unknown_helper"),
        ("invalid bpf_context access off=96 size=4", "context_access"),
        ("bpf_rcu_read_unlock is missing", "rcu_section"),
        ("2 bpf_preempt_enables are missing", "preempt_section"),
        ("stack depth 640 exceeds interpreter stack depth limit", "stack_limit"),
        ("the call stack of 9 frames is too deep", "call_depth"),
        ("BPF program is too large. Processed 131073 insn", "too_complex"),
        ("global function calls are not allowed while holding a lock,\nuse static function instead", "lock_held"),
        ("BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region", "lock_held"),
    ],
)
def test_wordings_of_other_releases_mean_the_same(message: str, cause: str) -> None:
    found = parse_rejection(f"0: (85) call pc+1\n{message}\nprocessed 3 insns (limit 1000000)")
    assert found is not None
    assert found.cause_id == cause, found.cause
    assert "?" not in found.explanation and "{" not in found.explanation


def test_each_cause_has_a_test() -> None:
    seen = {log.stem.split("__")[0] for log in LOGS} | SPELT.keys()
    assert {cause.id for cause in causes()} == seen
    assert len(seen) >= 45


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "possible_null__lookup",
            "R0 may be NULL at memory.bpf.c:31: bpf_map_lookup_elem() at memory.bpf.c:27 returned it, and the path "
            "from there (instruction 7 to 10) has no test of it",
        ),
        ("possible_null__subprograms", "R1 may be NULL at memory.bpf.c:43: bpf_map_lookup_elem() at memory.bpf.c:37"),
        ("possible_null__subprograms_level2", "bpf_map_lookup_elem() at memory.bpf.c:37 returned it"),
        ("possible_null__one_path", "R6 may be NULL at memory.bpf.c:270: bpf_map_lookup_elem() at memory.bpf.c:265"),
        (
            "possible_null__second_path_level2",
            "bpf_map_lookup_elem() at memory.bpf.c:278 returned it, and the path from there (instruction 9 to 22)",
        ),
        ("possible_null__global", "it is an argument of a global function"),
        (
            "out_of_bounds__index",
            "8 bytes at offset 248 are accessed in an object of 64 bytes. The index R6 is a number from 0 to 248; it "
            "comes from memory.bpf.c:112, `u32 key = 0, at = prev->pid & 31;`",
        ),
        ("unbounded_index__signed", "stays inside a value of map memory.bss"),
        ("unbounded_size__u32", "R2, a size for bpf_probe_read_kernel(), is a number from 0 to 4294967295"),
        ("packet_bounds__short", "packet bytes 23 to 23, and on this path it has checked 14 bytes"),
        ("not_a_pointer__current", "bpf_get_current_task() at memory.bpf.c:91 returned it"),
        ("not_a_pointer__pulled", "the call of bpf_skb_pull_data() at memory.bpf.c:105 made the pointer invalid"),
        ("uninit_register__after_call", "the call of bpf_ktime_get_ns() at memory.bpf.c:"),
        (
            "reference_leak__task",
            "bpf_task_from_pid() at resources.bpf.c:44 takes a reference, and the path that leaves the program at "
            "resources.bpf.c:48 does not give it back",
        ),
        ("read_only__task", "R1 is a trusted pointer to struct task_struct: the program may read it, not write it"),
        ("argument_type__struct", "R1 is a trusted pointer to struct file"),
        ("sleep_in_region__rcu", "bpf_copy_from_user() may sleep, and calls.bpf.c:"),
        ("return_range__lsm", "At program exit R0 is from 0 to 3, and only [-4095, 0] is allowed"),
        ("stack_limit__combined", "3 nested calls need 640 bytes of stack"),
        ("too_complex__long_loop", "8193 branches wait to be explored"),
        ("rcu_section__open", "The RCU section is still open"),
        ("rcu_section__unmatched", "An unlock without a lock"),
        ("core_relocation__field", "struct task_struct___gone.gone.no_such_field"),
        ("struct_ops_member__missing", "does not take member no_such_member"),
        ("kfunc_missing__strong", "The kernel has no kfunc bpf_no_such_kfunc"),
    ],
)
def test_the_cause_is_told_with_the_values_of_the_log(kernel: str, name: str, text: str) -> None:
    assert text in explained(kernel, name).explanation


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("possible_null__lookup", "`if (!value) return 0;` after memory.bpf.c:27"),
        ("possible_null__kfunc", "`if (!task) return 0;`"),
        ("reference_leak__task", "bpf_task_release()"),
        ("reference_leak__ringbuf", "bpf_ringbuf_submit() or bpf_ringbuf_discard()"),
        ("reference_leak__iterator", "bpf_iter_num_destroy()"),
        ("packet_bounds__short", "if (data + 24 > data_end)"),
        ("unbounded_size__signed", "if (size > sizeof(buf))"),
        ("kfunc_missing__weak", "bpf_ksym_exists(bpf_no_such_kfunc)"),
        ("gpl_only__helper", 'char _license[] SEC("license") = "GPL";'),
    ],
)
def test_the_cure_is_a_change_to_this_program(kernel: str, name: str, cure: str) -> None:
    assert cure in explained(kernel, name).hint


def test_a_null_argument_of_a_hook_has_its_name() -> None:
    for kernel in ("6.17.13", "7.3.4"):
        found = explained(kernel, "prev")
        assert "`if (!prev) return 0;`" in found.hint
        assert "it is an argument of the hook" in found.explanation


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_the_registers_that_matter_are_shown(kernel: str) -> None:
    found = explained(kernel, "out_of_bounds__index")
    assert [register.split("=")[0] for register in found.registers] == ["R0", "R6"]
    assert found.registers[1].startswith("R6=scalar(smin=smin32=0,smax=umax=smax32=umax32=248")
    assert found.instruction == "13: (79) r1 = *(u64 *)(r0 +0)"
    assert (found.source_file, found.source_line, found.source_text) == ("memory.bpf.c", 116, "value->count[at]++;")


@pytest.mark.parametrize("log", FINE, ids=[f"{log.parent.name}-{log.stem}" for log in FINE])
def test_a_program_that_loads_was_not_refused_however_much_its_log_says(log: Path) -> None:
    text = log.read_text()
    assert "load: 0" in text
    assert parse_rejection(text) is None
    assert find_rejection(text.encode()) is None


def test_a_message_that_nobody_knows_is_unknown_and_never_guessed() -> None:
    found = parse_rejection("0: (b7) r0 = 0\nthe moon is in the wrong phase\nprocessed 1 insns (limit 1000000)")
    assert found is not None
    assert (found.cause_id, found.kind) == (UNKNOWN, "verifier")
    assert found.explanation == "unknown; the verifier's last sentence: the moon is in the wrong phase"
    assert "moon" in found.title


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_log_that_lost_its_end_does_not_get_a_cause(kernel: str) -> None:
    text = (VERIFIER / kernel / "possible_null__lookup.log").read_text()
    found = parse_rejection(text[: text.index("R0 invalid mem access")])
    assert found is not None
    assert found.cause_id == UNKNOWN
    assert "log ends before" in found.explanation
    assert "larger log buffer" in found.hint


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_log_that_lost_its_beginning_keeps_cause_and_place(kernel: str) -> None:
    text = (VERIFIER / kernel / "possible_null__lookup.log").read_text()
    found = parse_rejection(text[text.index("9: (") if kernel == "6.12.107" else text.index("7: (") :])
    assert found is not None
    assert (found.cause_id, found.source_line) == ("possible_null", 31)
    assert found.explanation.startswith("R0 may be NULL at memory.bpf.c:31")


@pytest.mark.parametrize(
    "prefix", ["[   14.221206] ", "[   14.221206][  T123] ", "<6>[   14.221206] ", "Nov 21 20:15:14 host scx[123]: "]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_log_from_a_console_or_a_journal_is_the_same_log(prefix: str, end: str) -> None:
    text = (VERIFIER / "6.12.107" / "reference_leak__task.log").read_text()
    plain = parse_rejection(text)
    assert parse_rejection("".join(prefix + line + end for line in text.splitlines())) == plain


def test_a_pointer_used_on_the_branch_where_it_is_null_is_told_so() -> None:
    found = parse_rejection(
        "0: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=m,ks=4,vs=8)\n"
        "1: (55) if r0 != 0x0 goto pc+1        ; R0=0\n2: (79) r1 = *(u64 *)(r0 +0)\n"
        "R0 invalid mem access 'scalar'\nprocessed 3 insns (limit 1000000)\n"
    )
    assert found is not None
    assert found.explanation.startswith("R0 is NULL on this path")
    assert "bpf_map_lookup_elem() returned it" in found.explanation
    assert found.hint.startswith("Return from the branch on which the pointer is NULL")


def test_logs_of_older_kernels_have_no_file_and_another_state_in_front() -> None:
    # kernel/bpf/verifier.c of 5.15: print_verifier_state() and verbose_linfo().
    found = parse_rejection(
        "0: R1=ctx(id=0,off=0,imm=0) R10=fp0\n; v = bpf_map_lookup_elem(&m, &key);\n"
        "0: (85) call bpf_map_lookup_elem#1\n"
        "1: R0_w=map_value_or_null(id=1,off=0,ks=4,vs=8,imm=0) R10=fp0\n; *v = 1;\n"
        "1: (7a) *(u64 *)(r0 +0) = 1\nR0 invalid mem access 'map_value_or_null'\nprocessed 2 insns (limit 1000000)\n"
    )
    assert found is not None
    assert (found.source_text, found.source_line) == ("*v = 1;", None)
    assert "bpf_map_lookup_elem() returned it" in found.explanation
    assert "`if (!v) return 0;`" in found.hint


# A level 2 log as large as users send them: the loop of a real one, over and over, before its end.
def large(kernel: str, megabytes: float) -> str:
    text = (VERIFIER / kernel / "possible_null__second_path_level2.log").read_text()
    begin, end = text.index("0: (79)"), text.index("from 10 to 17")
    body = text[begin:end]
    return text[:begin] + body * int(megabytes * 1e6 / len(body)) + text[begin:]


@pytest.mark.parametrize("kernel", KERNELS)
def test_five_megabytes_are_explained_within_a_second_of_cpu_time(kernel: str) -> None:
    text = large(kernel, 5)
    begin = time.process_time()
    found = parse_rejection(text)
    assert time.process_time() - begin < 1
    assert found is not None
    assert "bpf_map_lookup_elem() at memory.bpf.c:278 returned it" in found.explanation


def test_a_log_amid_much_else_is_found_without_reading_all_of_it() -> None:
    log = (VERIFIER / "6.12.107" / "reference_leak__task.log").read_bytes()
    noise = b"[    7.125000] systemd[1]: Started a unit that does nothing.\n" * 600_000
    begin = time.process_time()
    found = find_rejection(noise + log + noise)
    assert time.process_time() - begin < 1
    assert found is not None
    assert found.cause_id == "reference_leak"
    assert find_rejection(noise) is None


@pytest.mark.parametrize(
    "line",
    [
        b"libbpf: struct_ops bad_ops: member sub_attach not found in kernel, skipping it as it's set to zero",
        b"libbpf: failed to find valid kernel BTF",
        b"libbpf: elf: skipping unrecognized data section(4) .rodata.str1.1",
        b"bpf: preload: processed 3 insns and went on",
        b"audit: type=1334 audit(1763751600.1:20): prog-id=8 op=LOAD",
    ],
)
def test_a_harmless_line_on_a_console_is_no_refusal(line: bytes) -> None:
    assert find_rejection(b"[    1.5] " + line + b"\n") is None


def test_a_log_twice_as_long_takes_twice_as_long() -> None:
    def seconds(megabytes: float) -> float:
        # No value of R0 in it, so that the way back goes through all of it.
        text = large("7.3.4", megabytes).replace("call bpf_map_lookup_elem#1", "r5 = 1")
        begin = time.process_time()
        parse_rejection(text)
        return time.process_time() - begin

    assert seconds(2) < 4 * seconds(1) + 0.2


def test_no_explanation_costs_more_tokens_than_an_agent_wants_to_pay() -> None:
    for log in set(VERIFIER.glob("*/*.log")) - set(FINE):
        found = parse_rejection(log.read_text())
        assert found is not None
        shown = asdict(found)
        del shown["register_states"]
        assert len(ENCODING.encode(json.dumps(shown))) <= MOST_TOKENS, log


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("scalar()", "a number of which nothing is known"),
        ("scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))", "a number from 0 to 4294967295"),
        ("scalar(smin=0xffffffff80000000,smax=0x7fffffff)", "a number from -2147483648 to 2147483647"),
        ("P5", "the number 5"),
        ("0x1ffd001", "the number 0x1ffd001"),
        ("trusted_ptr_or_null_task_struct(id=3)", "NULL or a trusted pointer to struct task_struct"),
        ("rcu_ptr_or_null_cgroup()", "NULL or a rcu pointer to struct cgroup"),
        ("untrusted_ptr_task_struct()", "an untrusted pointer to struct task_struct"),
        ("map_value(map=m,ks=4,vs=64,off=8)", "a value of map m (64 bytes) at offset 8"),
        (
            "map_value(map=m,ks=4,vs=64,smin=smin32=0,smax=umax=smax32=umax32=248,var_off=(0x0; 0xf8))",
            "a value of map m (64 bytes) at offset 0 to 248",
        ),
        ("fp-8", "an address on the stack at offset -8"),
        ("pkt(off=14,r=14)", "packet data, 14 bytes of it checked at offset 14"),
        ("ctx()", "the program's context"),
        ("invP(id=0,umax_value=7,var_off=(0x0; 0x7))", "a number from 0 to 7"),
        ("?!", ""),
    ],
)
def test_a_registers_state_in_words(state: str, words: str) -> None:
    assert in_words(state) == words


def test_a_text_leaves_out_what_is_not_known() -> None:
    assert fill("[{a} and {b}|only {a}|none][; {c}]: x[]", {"a": "[1|2]"}) == "only [1|2]: x[]"
    assert fill("{a} {b}", {"a": "1"}) == "1 ?"


def test_what_gives_back_a_reference() -> None:
    assert releases("scx_bpf_get_idle_smtmask_node") == "scx_bpf_put_idle_cpumask()"
    assert releases("my_own_acquire") == ""


PARTS = sorted(
    {line for log in LOGS[::5] for line in log.read_text().splitlines() if len(line) < 400},
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=60), st.booleans())
def test_lines_of_logs_in_any_order_never_raise(lines: list[str], framed: bool) -> None:
    text = "\n".join(lines)
    parse_rejection(f"libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n{text}\nprocessed 1 insns" if framed else text)


@settings(deadline=None)
@given(
    st.from_regex(
        re.compile(r"R[0-9](_w)?=[a-zP_]{0,12}(\(([a-z]{1,6}=){1,3}-?(0x)?[0-9a-f]{1,40},?\))?"), fullmatch=True
    )
)
def test_any_state_can_be_put_in_words(state: str) -> None:
    in_words(state.partition("=")[2])
    parse_rejection(f"0: {state}\n0: (79) r1 = *(u64 *)(r0 +0)\nR0 invalid mem access 'scalar'\nprocessed 1 insns")
