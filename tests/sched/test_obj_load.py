# SPDX-License-Identifier: Apache-2.0
"""What is in a scheduler's object is read as it stands there: ops, programs, calls, maps, lines."""

from __future__ import annotations

import lzma
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.sched.check.inlined import Calls, inlined_calls
from kernloop.sched.compile import take_object
from kernloop.sched.embedded import is_scheduler
from kernloop.sched.obj import load
from kernloop.sched.obj.btf import Btf, BtfError
from kernloop.sched.obj.model import SchedObject, essential, plain
from support import ROOT

# Compiled by sched/compile.py for debian:7.3.4, without the debugger's sections.
OBJECTS = ROOT / "tests/fixtures/objects"


def the_bytes(name: str) -> bytes:
    return lzma.decompress((OBJECTS / f"{name}-7.3.4.bpf.o.xz").read_bytes())


def the_object(name: str) -> SchedObject:
    return load.read(the_bytes(name), Path(f"{name}.bpf.o"))


def test_each_op_has_its_program_and_the_table_its_numbers() -> None:
    found = the_object("vtime")
    [table] = found.ops
    assert table.name == "vtime_ops"
    assert table.type_name == "sched_ext_ops"
    assert table.members["enqueue"] == "vtime_enqueue"
    assert table.members["init"] == "vtime_init"
    assert table.scalars == {"timeout_ms": 5000, "name": "vtime"}
    assert {"select_cpu", "dispatch_max_batch", "cgroup_move"} <= set(table.fields)
    assert found.licence == "GPL"
    assert found.programs["vtime_init"].sleepable
    assert not found.programs["vtime_enqueue"].sleepable
    assert found.programs["vtime_enqueue"].op == "enqueue"


def test_a_table_of_cids_is_told_from_one_of_cpus() -> None:
    [table] = the_object("scx_qmap").ops
    assert table.type_name == "sched_ext_ops_cid"
    assert table.members["select_cid"] == "qmap_select_cid"


def test_calls_are_named_with_the_line_that_makes_them() -> None:
    program = the_object("vtime").programs["vtime_dispatch"]
    calls = [(insn.call.name, insn.line) for insn in program.insns if insn.call]
    moves = [line for name, line in calls if plain(name) in ("scx_bpf_dsq_move_to_local", "scx_bpf_consume")]
    assert len(moves) >= 3
    lines = (ROOT / "examples/schedulers/vtime.bpf.c").read_text().splitlines()
    for line in moves:
        assert line is not None
        assert line.file == "./vtime.bpf.c"
        assert line.source == lines[line.line - 1].strip()
        assert "dsq_move_to_local" in line.source


def test_callbacks_maps_variables_and_what_core_patches_are_known() -> None:
    found = the_object("scx_qmap")
    refs = {(insn.ref.kind, insn.ref.name) for p in found.programs.values() for insn in p.insns if insn.ref}
    assert ("subprog", "monitor_timerfn") in refs
    assert ("map", "task_ctx_stor") in refs
    assert ("kfunc", "scx_bpf_dsq_insert___v1") in refs
    assert any(kind == "data" and name == "__SCX_DSQ_LOCAL_ON" for kind, name in refs)
    assert found.maps["monitor_timer"].special == ("bpf_timer",)
    assert found.maps["task_ctx_stor"].type == "task_storage"
    names = {(insn.core.kind, insn.core.name) for p in found.programs.values() for insn in p.insns if insn.core}
    assert ("field_byte_offset", "task_struct.scx.weight") in names


def test_a_kfunc_may_be_weak() -> None:
    externs = the_object("vtime").externs
    assert externs["scx_bpf_dsq_insert___v1"].weak
    assert not externs["scx_bpf_create_dsq"].weak
    assert {externs[name].kind for name in externs} == {"kfunc"}


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("scx_bpf_dsq_insert___v2___compat", "scx_bpf_dsq_insert___v2", "scx_bpf_dsq_insert"),
        ("scx_bpf_consume___old", "scx_bpf_consume", "scx_bpf_consume"),
        ("__scx_bpf_dsq_insert_vtime", "__scx_bpf_dsq_insert_vtime", "__scx_bpf_dsq_insert_vtime"),
        ("x____y", "x____y", "x"),
    ],
)
def test_flavours_are_cut_off_as_libbpf_does(name: str, asked: str, said: str) -> None:
    assert essential(name) == asked
    assert plain(name) == said


def test_the_skeletons_in_a_program_are_found() -> None:
    whole = the_bytes("vtime")
    assert load.embedded(b"MZ" * 100 + whole + b"\x7fELF\x02\x01\x01" + b"pad" * 99 + whole) == [whole, whole]


def test_what_is_no_object_is_said_so() -> None:
    with pytest.raises(load.ObjectError, match="no sound BPF object"):
        load.read(b"int main(void) { return 0; }", Path("x.o"))
    with pytest.raises(load.ObjectError, match="X86_64"):
        load.read(Path("/proc/self/exe").read_bytes(), Path("python"))


@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_a_damaged_object_is_read_or_refused(seed: int, count: int) -> None:
    luck = random.Random(seed)
    data = bytearray(VTIME)
    for _ in range(count):
        data[luck.randrange(len(data))] = luck.randrange(256)
    try:
        load.read(bytes(data[: luck.choice([len(data), luck.randrange(len(data))])]), Path("x.o"))
    except load.ObjectError as error:
        assert "x.o" in error.message


# e_shoff of the file, or sh_offset or sh_size of all its sections.
@pytest.mark.parametrize("number", ["e_shoff", "sh_offset", "sh_size"])
def test_numbers_that_no_file_has_are_refused_by_all_who_read_objects(number: str, tmp_path: Path) -> None:
    data = bytearray(VTIME)
    (headers,) = struct.unpack_from("<Q", data, 40)
    sections = range(headers + 64, len(data), 64)
    places = {"e_shoff": [40], "sh_offset": [at + 24 for at in sections], "sh_size": [at + 32 for at in sections]}
    for at in places[number]:
        struct.pack_into("<Q", data, at, 2**64 - 16)
    path = tmp_path / "x.bpf.o"
    path.write_bytes(data)
    with pytest.raises(load.ObjectError, match="no sound BPF object"):
        load.load(path)
    assert not is_scheduler(bytes(data))
    assert inlined_calls(path) == Calls()


def test_an_object_for_a_machine_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bpf.o"
    path.write_bytes(VTIME[:18] + b"\xf0\xff" + VTIME[20:])
    with pytest.raises(UsageError, match="65520, not BPF"):
        take_object(path)


@given(st.binary(max_size=200), st.integers(0, 1 << 32), st.booleans())
def test_damaged_types_are_read_or_refused(noise: bytes, seed: int, headed: bool) -> None:
    luck = random.Random(seed)
    data = bytearray(TYPES)
    for byte in noise:
        data[luck.randrange(len(data))] = byte
    try:
        found = Btf(bytes(data) if headed else noise)
    except BtfError:
        return
    for type_id in range(len(found)):
        try:
            found.type(type_id)
            found.size(type_id)
            found.spell(type_id)
            found.member(type_id, "scx")
        except BtfError:
            continue


VTIME = the_bytes("vtime")
# A little of every kind, so that most of what noise hits is read.
TYPES = (ROOT / "tests/fixtures/objects/kinds.btf").read_bytes()
