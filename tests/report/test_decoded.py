# SPDX-License-Identifier: Apache-2.0
"""Reports of a small kernel (tests/fixtures/symbols, compiled here) decoded: lines, inlining, code, registers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.report.crash import Crash
from kernloop.report.severity import Severity
from kernloop.report.symbols import Decoded, Images, decode
from kernloop.report.symbols.elf import Image

SMALL = Path(__file__).parent.parent / "fixtures/symbols"
_COMPILE = (
    *("-O2", "-g", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-pic", "-mcmodel=kernel"),
)
_LINK = (
    *("-nostdlib", "-static", "-no-pie", "-Wl,-e,start_kernel"),
    *("-Wl,-Ttext=0xffffffff81000000", "-Wl,--build-id=sha1"),
)
_KASAN = (
    *("-fsanitize=kernel-address", "-fasan-shadow-offset=0xdffffc0000000000"),
    *("--param=asan-instrumentation-with-call-threshold=1000", "--param=asan-globals=0", "--param=asan-stack=0"),
)
# mov 0x5a8(%reg),%reg: the member that kl_read() and kl_found() fault on.
_LOAD = re.compile(rb"\x48\x8b([\x80-\xbf])\xa8\x05\x00\x00")
_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")  # as x86 numbers them


@dataclass(frozen=True)
class Small:
    """The small kernel: its tree, its vmlinux, and what the ELF file says of it."""

    tree: Path
    vmlinux: Path
    image: Image

    def frame(self, function: str, offset: int, size: int | None = None) -> str:
        symbol = min(self.image.find(function), key=lambda s: s.size)
        return f"{function}+{offset:#x}/{size or symbol.size:#x}"

    def code(self, function: str) -> bytes:
        symbol = min(self.image.find(function), key=lambda s: s.size)
        return self.image.read(symbol.address, symbol.elf_size)

    def load(self, function: str) -> tuple[int, str]:
        """Where `function` reads the member at 0x5a8, and the register that points to the struct."""
        match = _LOAD.search(self.code(function))
        assert match
        return match.start(), _REGISTERS[match[1][0] & 7]

    def line(self, file: str, text: str) -> int:
        """The number of the one line of a source file that has `text` in it."""
        lines = (self.tree / file).read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)


def gcc(tree: Path, output: Path, *words: str | Path) -> None:
    subprocess.run(["gcc", *_COMPILE, "-I", tree / "include", "-o", output, *words], check=True, timeout=60)


def build(tree: Path, vmlinux: Path) -> None:
    checked = vmlinux.with_suffix(".checked.o")
    gcc(tree, checked, "-c", *_KASAN, tree / "drivers/checked.c")
    gcc(tree, vmlinux, *_LINK, checked, *(file for file in sorted(tree.rglob("*.c")) if file.name != "checked.c"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    tree = Path(shutil.copytree(SMALL, folder / "tree"))
    vmlinux = folder / "vmlinux"
    build(tree, vmlinux)
    return Small(tree, vmlinux, Image(vmlinux))


def crash(function: str, kind: str = "null-pointer-dereference") -> Crash:
    return Crash(kind, Severity.OOPS, "", function, "", 0, None, None, 1, 1, (), (), False)


def registers(values: dict[str, int]) -> list[str]:
    """As `__show_regs()` prints them; those that are not given hold an address of the kernel."""
    names = [*_REGISTERS[:4], "rsi", "rdi", "rbp", *(f"r{n:02}" for n in range(8, 16))]
    words = [f"{name.upper()}: {values.get(name, 0xFFFF888002500000):016x}" for name in names]
    return [" ".join(words[at : at + 3]) for at in range(0, len(words), 3)]


def oops(small: Small, function: str, offset: int, *callers: str, fault: int, **values: int) -> list[str]:
    """A report as 7.3 prints it, with printk's time."""
    data = small.code(function)
    address = min(small.image.find(function), key=lambda s: s.size).address + offset
    code = small.image.read(address - 42, 64)
    dump = f"{code[:42].hex(' ')} <{code[42]:02x}> {code[43:].hex(' ')}"
    assert data
    lines = [
        f"BUG: kernel NULL pointer dereference, address: {fault:016x}",
        "#PF: supervisor read access in kernel mode",
        "CPU: 0 UID: 0 PID: 42 Comm: sh Not tainted 9.9.9 #1 PREEMPT(lazy)  ",
        f"RIP: 0010:{small.frame(function, offset)}",
        f"Code: {dump}",
        "RSP: 0018:ffff8880027a7df8 EFLAGS: 00010286",
        *registers(values),
        "Call Trace:",
        " <TASK>",
        *(f" {caller}" for caller in callers),
        "RIP: 0033:0x4ae3f7",
        "Code: 48 89 fa 4c 89 df e8 38 0b 00 00 8b 93 08 03 00 00 59 5e <5b> c3",
        "RAX: ffffffffffffffda RBX: 000000001a35a440 RCX: 00000000004ae3f7",
        " </TASK>",
        "---[ end trace 0000000000000000 ]---",
    ]
    return [f"[    2.7{number:05d}] {line}" for number, line in enumerate(lines)]


def read_ring(small: Small, build_id: str = "") -> Decoded:
    """kl_read() with a null `holder->ring`."""
    offset, register = small.load("kl_read")
    call = small.code("kl_call").index(b"\xe8") + 5
    lines = oops(small, "kl_read", offset, small.frame("kl_call", call), fault=0x5A8, **{register: 0})
    return decode(crash("kl_read"), lines, Images([small.vmlinux], build_id=build_id))


def test_a_fault_in_an_inlined_function_is_told_by_both_places(small: Small) -> None:
    found = read_ring(small)
    first = found.frames[0]
    assert (first.function, first.exact) == ("kl_read", True)
    inner, outer = first.places
    assert (inner.function, str(inner)) == (
        "ring_used",
        f"include/ring.h:{small.line('include/ring.h', 'unsigned long used =')}",
    )
    assert (outer.function, str(outer)) == (
        "kl_read",
        f"drivers/ring.c:{small.line('drivers/ring.c', 'faults in ring_used')}",
    )
    assert found.reasons == ()


def test_the_line_to_look_at_is_that_of_the_source_file_with_the_header_s_beside(small: Small) -> None:
    found = read_ring(small)
    assert str(found.guilty) == f"drivers/ring.c:{small.line('drivers/ring.c', 'faults in ring_used')}"
    assert [next(line.text.strip() for line in one.lines if line.guilty) for one in found.source] == [
        "return ring_used(holder->ring) + 1;     /* faults in ring_used() */",
        "unsigned long used = ring->used;",
    ]
    assert not any(one.note for one in found.source)


def test_a_caller_s_line_is_that_of_its_call_not_of_what_follows(small: Small) -> None:
    caller = read_ring(small).frames[1]
    assert not caller.exact
    assert str(caller.places[0]) == f"drivers/ring.c:{small.line('drivers/ring.c', 'long sum =')}"


def test_the_null_pointer_is_named_with_the_member_that_was_read(small: Small) -> None:
    note = read_ring(small).notes[0]
    assert (note.subject, note.value, note.certain) == (small.load("kl_read")[1], 0, True)
    assert "ring` (struct ring *) is NULL" in note.text
    assert "its member used, offset 0x5a8" in note.text


def test_a_null_that_a_function_returned_is_told_as_its_result(small: Small) -> None:
    offset, register = small.load("kl_found")
    lines = oops(small, "kl_found", offset, fault=0x5A8, **{register: 0})
    found = decode(crash("kl_found"), lines, Images([small.vmlinux]))
    assert "`ring_lookup()` (struct ring *) is NULL" in found.notes[0].text
    assert found.notes[0].certain


def test_a_poisoned_pointer_is_told_by_the_kernel_s_name(small: Small) -> None:
    offset, register = small.load("kl_read")
    value = 0x6B6B6B6B6B6B6B6B
    lines = oops(small, "kl_read", offset, fault=value + 0x5A8, **{register: value})
    lines[0] = f"Oops: general protection fault, probably for non-canonical address {value + 0x5A8:#x}: 0000 [#1] SMP"
    found = decode(crash("kl_read", "general-protection-fault"), lines, Images([small.vmlinux]))
    words = "ring` (struct ring *) is 0x6b6b6b6b6b6b6b6b (POISON_FREE: slab memory that was freed)"
    assert words in found.notes[0].text


def test_a_null_pointer_that_kasan_found_by_its_shadow_is_named(small: Small) -> None:
    code = small.code("kl_checked")
    check = re.compile(rb"\x80\x3c([\x00-\x3f])\x00")  # cmpb $0x0,(base,index,1)
    second = list(check.finditer(code))[1]
    pair = {_REGISTERS[second[1][0] & 7], _REGISTERS[second[1][0] >> 3 & 7]}
    shadow, offset = 0xDFFFFC0000000000, 0x5A8
    for constant in sorted(pair):
        (other,) = pair - {constant}
        values = {constant: shadow, other: offset >> 3}
        lines = oops(small, "kl_checked", second.start(), fault=shadow + (offset >> 3), **values)
        lines[0] = (
            f"Oops: general protection fault, probably for non-canonical address {shadow + (offset >> 3):#x}: 0000"
        )
        lines.insert(1, "KASAN: null-ptr-deref in range [0x00000000000005a8-0x00000000000005af]")
        found = decode(crash("kl_checked", "general-protection-fault"), lines, Images([small.vmlinux]))
        assert str(found.guilty) == f"drivers/checked.c:{small.line('drivers/checked.c', 'faults on the shadow')}"
        if any("is NULL" in note.text for note in found.notes):
            note = found.notes[0]
            assert note.text == "`holder->ring` is NULL; the access is to its member used"
            break
    else:
        raise AssertionError(found.notes)
    assert any("the access was to 0x5a8 to 0x5af" in note.text for note in found.notes)


def test_a_call_of_a_null_function_pointer_names_the_pointer(small: Small) -> None:
    call = small.code("kl_open").index(bytes.fromhex("ff 50 08")) + 3
    lines = [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "#PF: supervisor instruction fetch in kernel mode",
        "RIP: 0010:0x0",
        "Code: Unable to access opcode bytes at 0xffffffffffffffd6.",
        "RAX: ffffffff81001000 RBX: 0000000000000000 RCX: 0000000000000000",
        "Call Trace:",
        " <TASK>",
        f" {small.frame('kl_open', call)}",
    ]
    found = decode(crash("kl_open"), lines, Images([small.vmlinux]))
    assert str(found.guilty) == f"drivers/ring.c:{small.line('drivers/ring.c', 'calls a null pointer')}"
    assert "`holder->ops->drain` was called" in found.notes[0].text
    assert any("Unable to access opcode bytes" in reason for reason in found.reasons)


def test_the_code_has_its_boundaries_and_the_fault_marked(small: Small) -> None:
    found = read_ring(small)
    guilty = next(one for one in found.code if one.guilty)
    assert guilty.text.startswith(f"movq 0x5a8(%{small.load('kl_read')[1]}), ")
    assert guilty.offset == found.frames[0].offset
    earlier = found.code[: found.code.index(guilty)]
    assert any(one.text.startswith("movq 0x448(%rdi), ") for one in earlier)
    assert any(one.text.endswith("# kl_count") for one in found.code)


def test_a_call_that_never_returns_belongs_to_its_caller_and_cold_parts_to_their_function(small: Small) -> None:
    cold = next(name for name in ("kl_call.cold", "kl_call") if small.image.find(name))
    fatal = len(small.code("kl_fatal"))
    lines = [
        "kernel BUG at drivers/ring.c:34!",
        f"RIP: 0010:{small.frame('kl_bug', small.code('kl_bug').index(bytes.fromhex('0f0b')))}",
        "Call Trace:",
        f" {small.frame('kl_fatal', fatal)}",
        f" {small.frame(cold, small.code(cold).rindex(bytes.fromhex('e8')) + 5)}",
    ]
    found = decode(crash("kl_bug", "kernel-bug"), lines, Images([small.vmlinux]))
    bug, fatal_frame, cold_frame = found.frames
    assert str(bug.places[0]) == f"drivers/ring.c:{small.line('drivers/ring.c', '__builtin_trap')}"
    assert str(fatal_frame.places[0]) == f"drivers/ring.c:{small.line('drivers/ring.c', 'kl_bug();')}"
    assert cold_frame.places[0].function == "kl_call"
    assert str(cold_frame.places[0]) == f"drivers/ring.c:{small.line('drivers/ring.c', 'kl_fatal();')}"


def test_of_two_functions_with_one_name_the_size_decides(small: Small) -> None:
    short, long = sorted(small.image.find("same_name"), key=lambda symbol: symbol.size)
    assert short.size != long.size
    for symbol, file in ((short, "drivers/ring.c"), (long, "drivers/other.c")):
        frame = f" same_name+0x7/{symbol.size:#x}"
        found = decode(crash("same_name"), ["Call Trace:", frame], Images([small.vmlinux]))
        assert found.frames[0].places[0].file == file


def test_a_function_of_another_size_means_another_build_and_nothing_is_decoded(small: Small) -> None:
    lines = ["Call Trace:", " kl_read+0x7/0x1230", f" {small.frame('kl_call', 10)}"]
    found = decode(crash("kl_read"), lines, Images([small.vmlinux]))
    assert not any(frame.places for frame in found.frames)
    assert found.guilty is None
    size = small.image.find("kl_read")[0].size
    assert f"another build: kl_read is {size:#x} bytes here, 0x1230 where the crash was" in found.reasons[0]
    lines = ["Call Trace:", " bpf_prog_12ab_x+0x7/0x30", " kl_gone+0x7/0x30", f" {small.frame('kl_call', 10)}"]
    found = decode(crash("kl_call"), lines, Images([small.vmlinux]))
    assert not any(frame.places for frame in found.frames)
    assert "another build: kl_gone is not here" in found.reasons[0]
    without = decode(crash("kl_call"), [lines[0], lines[1], lines[3]], Images([small.vmlinux]))
    assert without.guilty is not None
    assert without.frames[0].note == "no function bpf_prog_12ab_x in vmlinux"


def test_another_build_id_is_told_and_nothing_is_decoded(small: Small) -> None:
    found = read_ring(small, build_id="12" * 20)
    assert found.guilty is None
    assert f"its build-id is {small.image.build_id}, of the kernel that ran {'12' * 20}" in found.reasons[0]
    assert read_ring(small, build_id=small.image.build_id).reasons == ()


def test_another_release_is_told(small: Small) -> None:
    lines = ["CPU: 0 PID: 1 Comm: sh Not tainted 6.1.0-9-amd64 #1", "Call Trace:", f" {small.frame('kl_call', 10)}"]
    found = decode(crash("kl_call"), lines, Images([small.vmlinux]))
    assert "no Linux 6.1.0-9-amd64" in found.reasons[0]


def test_bare_addresses_need_the_kernel_s_offset(small: Small) -> None:
    symbol = small.image.find("kl_open")[0]
    lines = ["Call Trace:", f" 0x{symbol.address + 0x1E000000 + 9:016x}"]
    found = decode(crash("kl_open"), lines, Images([small.vmlinux]))
    assert "does not say how far the kernel was moved" in found.frames[0].note
    lines += ["Kernel Offset: 0x1e000000 from 0xffffffff81000000 (relocation range: 0x0-0x1)"]
    frame = decode(crash("kl_open"), lines, Images([small.vmlinux])).frames[0]
    assert (frame.function, frame.offset, frame.places[0].function) == ("kl_open", 9, "kl_open")


def test_source_that_is_not_here_or_changed_is_told(small: Small, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(small.tree, tmp_path / "gone"))
    vmlinux = tmp_path / "vmlinux"
    build(tree, vmlinux)
    lines = ["Call Trace:", f" {small.frame('kl_open', 9)}"]
    images = Images([vmlinux])
    (tree / "drivers/ring.c").write_text("int nothing;\n" * 100)
    assert "does not name kl_open" in decode(crash("kl_open"), lines, images).source[0].note
    shutil.rmtree(tree)
    found = decode(crash("kl_open"), lines, Images([vmlinux]))
    assert found.guilty is not None
    assert found.source[0].lines == ()
    assert found.source[0].note == "drivers/ring.c is not here"
    moved = decode(crash("kl_open"), lines, Images([vmlinux], source=small.tree))
    assert moved.source[0].lines


def test_a_module_s_frame_is_decoded_by_its_own_file(small: Small, tmp_path: Path) -> None:
    module = tmp_path / "kl-ring.ko"
    gcc(small.tree, module, "-c", small.tree / "drivers/ring.c")
    symbol = Image(module).find("kl_found")[0]
    lines = ["Call Trace:", f" kl_found+{5:#x}/{symbol.size:#x} [kl_ring]", " kl_gone+0x1/0x10 [other]"]
    found = decode(crash("kl_found"), lines, Images([small.vmlinux, tmp_path]))
    assert str(found.guilty) == f"drivers/ring.c:{small.line('drivers/ring.c', 'faults on what')}"
    assert found.frames[1].note == "no file of module other"


def test_without_a_vmlinux_the_code_is_still_disassembled(small: Small) -> None:
    offset, register = small.load("kl_read")
    lines = oops(small, "kl_read", offset, fault=0x5A8, **{register: 0})
    found = decode(crash("kl_read"), lines, Images([]))
    assert next(one.text for one in found.code if one.guilty).startswith("movq 0x5a8(")
    assert found.frames[0].note == "no vmlinux"
    bare = [re.sub(r"kl_read\+0x\w+/0x\w+", "0x" + "ffffffff81000077", line) for line in lines]
    found = decode(crash("kl_read"), bare, Images([]))
    assert any(one.text.startswith("movq 0x448(%rdi), ") for one in found.code)


def test_files_that_are_no_kernel_are_reasons_not_errors(tmp_path: Path) -> None:
    text = tmp_path / "vmlinux"
    text.write_text("no ELF")
    found = decode(crash("x"), ["Call Trace:", " x+0x1/0x2"], Images([text, tmp_path / "gone"]))
    assert "is no ELF file" in found.reasons[0]
    assert found.frames[0].note == "no vmlinux"


def test_the_verb_takes_a_vmlinux_and_tells_lines_in_words_and_in_json(small: Small, tmp_path: Path) -> None:
    offset, register = small.load("kl_read")
    call = small.code("kl_call").index(b"\xe8") + 5
    log = tmp_path / "console.log"
    lines = oops(small, "kl_read", offset, small.frame("kl_call", call), fault=0x5A8, **{register: 0})
    log.write_text("\n".join(lines) + "\n")
    place = f"drivers/ring.c:{small.line('drivers/ring.c', 'faults in ring_used')}"
    shown = CliRunner().invoke(app, ["report", str(log), "--vmlinux", str(small.vmlinux)])
    assert shown.exit_code == 1, shown.output
    assert f"at {place} in kl_read()" in shown.output
    assert "ring` (struct ring *) is NULL" in " ".join(shown.output.split())
    told = CliRunner().invoke(app, ["report", str(log), "--vmlinux", str(small.vmlinux), "--json"])
    decoded = json.loads(told.output)["decoded"]
    file, line = place.split(":")
    assert decoded["guilty"] == {"function": "kl_read", "file": file, "line": int(line)}
    assert decoded["frames"][0]["places"][0]["function"] == "ring_used"
    plain = CliRunner().invoke(app, ["report", str(log), "--json"])
    assert json.loads(plain.output)["decoded"] is None
    gone = CliRunner().invoke(app, ["report", str(log), "--vmlinux", str(tmp_path / "gone")])
    assert gone.exit_code == 2
