# SPDX-License-Identifier: Apache-2.0
"""Types that drgn gets from BTF are those that it reads from the DWARF of the same program."""

from __future__ import annotations

import pytest
from drgn import Architecture, Object, Platform, Program, Qualifiers, Type, TypeKind, TypeKindSet
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernloop.debug.btf_types import BtfTypes
from kernloop.debug.values import Limits, plain
from kernloop.sched.obj.btf import Btf, BtfError
from support import ROOT

FOLDER = ROOT / "tests/fixtures/btf"
BLOB = (FOLDER / "shapes.btf").read_bytes()
NAMES = ("struct whole", "struct flags", "union either", "struct node", "enum colour", "enum sign", "enum wide", "u64")


def with_btf(blob: bytes = BLOB) -> tuple[Program, BtfTypes]:
    prog = Program(Platform(Architecture.X86_64))
    types = BtfTypes(prog, Btf(blob))
    prog.register_type_finder("btf", types, enable_index=0)
    return prog, types


def with_dwarf() -> Program:
    prog = Program(Platform(Architecture.X86_64))
    prog.extra_module("shapes", create=True).try_file(FOLDER / "shapes.so")
    return prog


def told(type_: Type, depth: int = 0) -> object:
    """All that is known of a type, to be compared."""
    if depth > 6:
        return type_.type_name()
    words: list[object] = [type_.kind.name, type_.type_name(), str(type_.qualifiers)]
    match type_.kind:
        case TypeKind.STRUCT | TypeKind.UNION:
            members = type_.members
            words.append(members and type_.size)
            words += [
                (member.name, member.bit_offset, member.bit_field_size, told(member.type, depth + 1))
                for member in members or ()
            ]
        case TypeKind.ENUM:
            words += [(one.name, one.value) for one in type_.enumerators or ()]
        case TypeKind.POINTER | TypeKind.TYPEDEF:
            words.append(told(type_.type, depth + 1))
        case TypeKind.ARRAY:
            # BTF has 0 for a flexible one.
            words += [type_.length or 0, told(type_.type, depth + 1)]
        case TypeKind.FUNCTION:
            words += [type_.is_variadic, told(type_.type, depth + 1)]
            words += [told(one.type, depth + 1) for one in type_.parameters]
        case TypeKind.INT | TypeKind.BOOL | TypeKind.FLOAT:
            words.append(type_.size)
    return words


@pytest.mark.parametrize("name", NAMES)
def test_a_type_is_the_same_from_btf_as_from_dwarf(name: str) -> None:
    btf, dwarf = told(with_btf()[0].type(name)), told(with_dwarf().type(name))
    assert str(btf).replace("[0]", "[]") == str(dwarf).replace("[0]", "[]")


def test_values_in_memory_are_read_by_those_types() -> None:
    prog, _ = with_btf()
    flags = (0b1 | 0b101 << 1 | (0b10000 << 4) | 1 << 9 | 0xABCDEF0123 << 10).to_bytes(8, "little")
    data = b"\x10" + b"\0" * 15 + flags + (7).to_bytes(8, "little", signed=True) + bytes(512)
    prog.add_memory_segment(0x1000, len(data), lambda at, count, offset, physical: data[offset : offset + count])
    whole = Object(prog, "struct whole", address=0x1000)
    assert whole.flags.ready and whole.flags.state == 5 and whole.flags.level == -16 and whole.flags.on
    assert whole.flags.far == 0xABCDEF0123
    assert whole.either.number == 7 and whole.either.low == 7
    shown = plain(whole, Limits(depth=3, elements=2))
    assert shown["node"] == {"next": "0x10", "back": "0x0"}
    assert shown["flags"]["level"] == -16 and shown["flags"]["on"] is True
    assert shown["first"] == 0 and shown["named"] == {"inner": 0, "a": 0, "b": 0}
    assert shown["row"] == [0, 0, "... 10 more"]
    assert shown["colour"] == "RED" and shown["either"]["text"] == "\x07"


def test_a_name_of_another_kind_or_of_a_file_is_not_found() -> None:
    prog, types = with_btf()
    with pytest.raises(LookupError):
        prog.type("struct colour")
    with pytest.raises(LookupError):
        prog.type("struct whole", "shapes.c")
    assert types(prog, TypeKindSet({TypeKind.UNION}), "whole", None) is None


def test_a_structure_that_is_only_declared_is_incomplete() -> None:
    prog, _ = with_btf()
    declared = prog.type("struct whole").member("declared").type.type
    assert declared.type_name() == "struct declared" and not declared.is_complete()
    assert prog.type("struct whole").member("name").type.qualifiers == Qualifiers.CONST


def test_enumerators_are_constants() -> None:
    _, types = with_btf()
    found = [types.constant(name) for name in ("GREEN", "BELOW", "HIGH", "NOWHERE")]
    assert [one.value_() if one is not None else None for one in found] == [5, -1, 1 << 40, None]


@settings(max_examples=300)
@example([(1096, 0)])  # an array of void
@given(st.lists(st.tuples(st.integers(24, len(BLOB) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_btf_gives_types_or_a_btf_error(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(BLOB)
    for place, byte in changes:
        blob[place] = byte
    try:
        _, types = with_btf(bytes(blob))
    except BtfError:
        return
    for number in range(len(types.btf)):
        try:
            type_ = types.type(number)
            for member in (type_.members or ()) if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) else ():
                assert member.type is not None
        except BtfError:
            continue
