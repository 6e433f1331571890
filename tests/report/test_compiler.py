# SPDX-License-Identifier: Apache-2.0
"""What builds of schedulers and of 7.3 kernels with mistakes in them said: clang 22, gcc 12 and everything beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.compiler import Diagnostic, Place, errors, new, parse, with_functions

FIXTURES = Path(__file__).parent.parent / "fixtures"
TREE = "/src/linux"


def recorded(name: str) -> list[Diagnostic]:
    return parse((FIXTURES / "compiler" / f"{name}.txt").read_text().splitlines(), tree=TREE)


def about(found: Sequence[Diagnostic], file: str) -> list[Diagnostic]:
    return [one for one in found if one.file == file]


def test_an_error_of_a_scheduler_has_its_place_its_source_line_and_its_notes() -> None:
    first, *others = parse((FIXTURES / "clang" / "clang-22.txt").read_text().splitlines())
    assert (first.file, first.line, first.column, first.severity) == ("proto.bpf.c", 5, 6, "error")
    assert first.message == "conflicting types for 'scx_bpf_kick_cpu'"
    assert first.source == "void scx_bpf_kick_cpu(u64 a) __ksym;"
    (note,) = first.notes
    assert (note.file, note.line, note.message) == ("scx/common.bpf.h", 70, "previous declaration is here")
    assert [item.message for item in others] == [
        "use of undeclared identifier 'count'",
        "too few arguments to function call, expected 2, have 1",
        "use of undeclared identifier 'count'",
    ]


def test_old_layouts_and_missing_places_are_read_too() -> None:
    old, fatal = parse(
        ["a.c:3:5: warning: unused [-Wunused]", "    int x;", "        ^", "clang: fatal error: no input"]
    )
    assert (old.severity, old.source, old.option) == ("warning", "int x;", "-Wunused")
    assert (fatal.file, fatal.line, fatal.severity) == ("clang", 0, "fatal error")


def test_colours_of_a_terminal_do_not_matter() -> None:
    (item,) = parse(["\x1b[1ma.c:3:5: \x1b[0m\x1b[0;1;31merror: \x1b[0m\x1b[1mbad\x1b[0m"])
    assert (item.line, item.message) == (3, "bad")


def test_gcc_names_the_function_of_each_error() -> None:
    found = about(errors(recorded("gcc-12")), "kernel/kl_errors.c")
    assert [(one.line, one.function, one.option) for one in found] == [
        (17, "kl_undeclared", ""),
        (22, "kl_member", ""),
        (27, "kl_pointer", "-Wincompatible-pointer-types"),
        (31, "kl_pointer", "-Wimplicit-function-declaration"),
        (36, "kl_args", ""),
        (43, "kl_syntax", ""),
        (18, "kl_undeclared", "-Wreturn-type"),
        (23, "kl_member", "-Wreturn-type"),
        (44, "kl_syntax", "-Wreturn-type"),
    ]
    assert found[0].source == "return p->prio + no_such_thing;"
    assert found[0].message == "'no_such_thing' undeclared (first use in this function)"


def test_what_is_wrong_at_the_top_level_has_no_function() -> None:
    found = [one for one in recorded("gcc-12") if one.option in ("-Wmissing-prototypes", "-Wunused-function")]
    assert len(found) == 8
    assert {one.function for one in found} == {""}


def test_a_mistake_that_a_macro_shows_is_where_the_macro_is_used() -> None:
    for name in ("gcc-12", "clang-22"):
        (found,) = about(recorded(name), "kernel/kl_bug.c")
        assert found.line == 7, name
        assert found.source == "BUILD_BUG_ON(sizeof(struct kl) != 8);"
        assert "BUILD_BUG_ON failed: sizeof(struct kl) != 8" in found.message
        assert any(note.file == "include/linux/compiler_types.h" for note in found.notes)
        (format_,) = (one for one in recorded(name) if one.option == "-Wformat")
        assert (format_.file, format_.line) == ("kernel/kl_errors.c", 30)


def test_an_error_in_a_header_says_by_which_way_it_was_included() -> None:
    for name in ("gcc-12", "clang-22"):
        first = about(recorded(name), "include/linux/kl_inner.h")[0]
        assert (first.line, first.included) == (
            3,
            (Place("include/linux/kl_outer.h", 1), Place("kernel/kl_in_header.c", 2)),
        ), name


def test_clang_names_no_function_so_the_source_is_asked() -> None:
    source = ["static int", "first(void)", "{", "\tint a;", "}", "", "struct s {", "\tint b;", "};", "", "int bad;"]
    source += ["SYSCALL_DEFINE2(kl, int, a,", "\t\tint, b)", "{", "\treturn a;", "}"]
    found = [replace(parse(["a.c:1:1: error: x"])[0], line=line) for line in (4, 8, 11, 15, 99)]
    named = with_functions(found, {"a.c": source}.get)
    assert [one.function for one in named] == ["first", "", "", "kl", ""]


def test_clang_and_gcc_agree_about_lines_of_errors() -> None:
    clang, gcc = (
        {(one.file, one.line) for one in errors(recorded(name)) if one.option != "-Wreturn-type"}
        for name in ("clang-22", "gcc-12")
    )
    # Of a missing semicolon gcc names the line after, clang the line itself.
    assert clang ^ gcc == {("kernel/kl_errors.c", 42), ("kernel/kl_errors.c", 43)}


def test_a_function_inlined_into_another_is_blamed_on_that() -> None:
    (found,) = parse(
        [
            "In function ‘fortify_memcpy_chk’,",
            "    inlined from ‘kl_copy’ at /src/linux/kernel/kl.c:12:2:",
            "/src/linux/include/linux/fortify-string.h:580:25: error: call to ‘__write_overflow’ declared with "
            "attribute error: detected write beyond size of object",
            "  580 |                         __write_overflow();",
        ],
        tree=TREE,
    )
    assert (found.file, found.line, found.function) == ("kernel/kl.c", 12, "kl_copy")


@pytest.mark.parametrize(
    ("name", "kind", "symbol", "fault"),
    [
        ("no-flex", "missing-tool", "flex", "machine"),
        ("no-bison", "missing-tool", "bison", "machine"),
        ("no-bc", "missing-tool", "bc", "machine"),
        ("no-headers", "missing-header", "gelf.h", "machine"),
        ("killed", "killed", "", "machine"),
        ("disk-full", "disk-full", "", "machine"),
        ("no-rule", "no-rule", "kernel/no_such_object.o", "code"),
        ("unclean", "unclean-tree", "", "caller"),
        ("kconfig-recursive", "recursive", "", "code"),
    ],
)
def test_what_fails_beside_the_compiler_says_whose_fault_it_is(name: str, kind: str, symbol: str, fault: str) -> None:
    first = errors(recorded(name))[0]
    assert (first.kind, first.symbol, first.fault) == (kind, symbol, fault)


@pytest.mark.parametrize("name", ["ld-bfd-undefined", "ld-lld-undefined"])
def test_an_undefined_symbol_of_the_link_is_told_with_who_refers_to_it(name: str) -> None:
    first = errors(recorded(name))[0]
    assert (first.kind, first.symbol, first.file, first.line) == ("undefined", "kl_nowhere", "kernel/exit.c", 2019)
    assert (first.function, first.object) == ("kl_undefined", "vmlinux.o")


@pytest.mark.parametrize(("name", "symbol"), [("ld-bfd-duplicate", "panic_timeout"), ("ld-lld-duplicate", "kl_twice")])
def test_a_symbol_defined_twice_is_told(name: str, symbol: str) -> None:
    (found,) = errors(recorded(name))
    assert (found.kind, found.symbol, found.fault) == ("duplicate", symbol, "code")
    assert found.file
    assert found.line


def test_modpost_and_objtool_name_function_symbol_and_module() -> None:
    stack, section, undefined, _ = recorded("modpost-objtool")
    assert (stack.tool, stack.function, stack.object) == ("objtool", "kl_modified_stack", "vmlinux.o")
    assert (section.kind, section.function, section.symbol) == ("section-mismatch", "kl_mismatch", "kl_init_fn")
    assert (undefined.symbol, undefined.object) == ("kl_module_nowhere", "fs/ext4/ext4.ko")
    # As modpost wrote it up to 6.x.
    (old,) = parse(['ERROR: modpost: "kl_module_nowhere" [fs/ext4/ext4.ko] undefined!'])
    assert (old.kind, old.symbol, old.object) == ("undefined", undefined.symbol, undefined.object)


def test_kconfig_says_file_and_line_and_what_depends_on_what() -> None:
    assert [(one.file, one.line, one.message) for one in recorded("kconfig-syntax")] == [
        ("init/Kconfig", 2372, "syntax error"),
        ("init/Kconfig", 2372, "invalid statement"),
        ("init/Kconfig", 2373, 'unknown statement "frobnicate"'),
    ]
    (recursive,) = recorded("kconfig-recursive")
    assert recursive.notes[0].message == "symbol KL_A depends on KL_B"
    (unmet,) = recorded("kconfig-unmet")
    assert (unmet.symbol, unmet.severity, unmet.notes[0].message) == ("KL_E", "warning", "Depends on [n]: !64BIT [=y]")
    values = recorded("kconfig-values")
    assert {(one.tool, one.severity) for one in values} == {("kconfig", "warning")}
    assert values[-1].message == "symbol value 'm' invalid for SMP"


def test_a_step_that_fails_without_a_known_complaint_is_told_with_its_last_words() -> None:
    (found,) = parse(
        [
            "  GEN     lib/oid_registry_data.c",
            "Traceback: no such thing",
            "make[2]: *** [/src/linux/lib/Makefile:300: lib/oid_registry_data.c] Error 3",
            "make[1]: *** [/src/linux/Makefile:260: __sub-make] Error 2",
        ]
    )
    assert (found.kind, found.object) == ("failed-step", "lib/oid_registry_data.c")
    assert [note.message for note in found.notes] == ["Traceback: no such thing"]


def test_a_linker_that_cannot_write_what_it_maps_is_a_full_disk() -> None:
    (found,) = parse(["  LD      vmlinux.o", "make[3]: *** [scripts/Makefile.vmlinux_o:79: vmlinux.o] Error 135"])
    assert (found.kind, found.object, found.fault) == ("disk-full", "vmlinux.o", "machine")


def test_a_build_folder_in_the_tree_makes_no_difference() -> None:
    for path in ("../../kernel/fork.c", "./kernel/fork.c", "/src/linux/kernel/../kernel/fork.c", "kernel/fork.c"):
        assert parse([f"{path}:1:2: error: x"], tree=TREE)[0].file == "kernel/fork.c"


def test_a_warning_of_a_header_is_told_once() -> None:
    line = "include/linux/x.h:3:1: warning: unused [-Wunused]"
    assert len(parse([line, "  CC      a.o", line])) == 1


def test_only_what_an_earlier_build_did_not_say_is_new() -> None:
    before = recorded("gcc-12")
    moved = [replace(one, line=one.line + 7) for one in before]
    assert new(moved, before) == []
    again = replace(before[3], line=500)
    assert new([*moved, again], before) == [again]
    assert new(before, []) == before


def test_a_count_in_a_message_makes_it_not_new() -> None:
    one, other = (parse([f"a.c:1:1: error: call to '__compiletime_assert_{n}' declared"]) for n in (3, 44))
    assert new(other, one) == []


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    parse(text.split("\n"), tree=TREE)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_log_cut_anywhere_can_be_read(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted((FIXTURES / "compiler").iterdir())))
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    found = parse(text[start : data.draw(st.integers(start, len(text)))].split("\n"), tree=TREE)
    with_functions(found, lambda file: text.split("\n"))
    assert new(found, found) == []
