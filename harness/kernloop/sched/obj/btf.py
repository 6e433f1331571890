# SPDX-License-Identifier: Apache-2.0
"""BPF Type Format: the types of an object or of a kernel, read when they are asked for.

A kernel has 120 000 types. One walk (40 ms) finds where each begins; all else is looked up in the bytes.
Layout: include/uapi/linux/btf.h. From 7.3 on kinds have seven bits, and a section tells the lengths of unknown ones.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from kernloop.errors import HarnessError

__all__ = ["Btf", "BtfError", "Enumerator", "Member", "Type"]

# fmt: off
_KINDS: Final = (
    "void", "int", "ptr", "array", "struct", "union", "enum", "fwd", "typedef", "volatile", "const", "restrict",
    "func", "func_proto", "var", "datasec", "float", "decl_tag", "type_tag", "enum64",
)
# fmt: on
_MAGIC = 0xEB9F
# Bytes after the common twelve: of the type, and of each of its vlen elements.
_EXTRA = {1: (4, 0), 3: (12, 0), 14: (4, 0), 17: (4, 0)}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_QUALIFIERS = frozenset({"typedef", "volatile", "const", "restrict", "type_tag"})
_REFERS = frozenset({"ptr", "func", "var", "decl_tag"}) | _QUALIFIERS
# Deeper than any type that a compiler makes; what is deeper goes in a circle.
_DEEPEST = 64


class BtfError(HarnessError):
    """The bytes are no BTF, or damaged."""


@dataclass(frozen=True, slots=True)
class Member:
    """Of a struct, a union, a function's parameters (`bit_offset` 0), or a section's variables (bytes * 8)."""

    name: str
    type_id: int
    bit_offset: int = 0
    bit_size: int = 0


@dataclass(frozen=True, slots=True)
class Enumerator:
    """A constant of an enum; `value` is negative only if the enum is signed."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Type:
    """`size` in bytes where the kind has one; `type_id` what it refers to: pointee, element, returned, aliased.

    `count` is an array's length; `signed` of an int or enum; `boolean` of an int, `union` of a fwd, `component` of a
    declaration tag: which parameter, -1 for the whole. `linkage` of a func or var: 0 static, 1 global, 2 extern.
    """

    id: int
    kind: str
    name: str
    size: int = 0
    type_id: int = 0
    members: tuple[Member, ...] = ()
    enumerators: tuple[Enumerator, ...] = ()
    count: int = 0
    signed: bool = False
    component: int = -1
    linkage: int = 0
    boolean: bool = False
    union: bool = False


class Btf:
    """Types by id and by name. Raises BtfError for what is no BTF, at once or when a damaged part is asked for."""

    def __init__(self, data: bytes) -> None:
        try:
            magic, version, _, length, types, types_length, strings, strings_length = struct.unpack_from(
                "<HBBIIIII", data
            )
        except struct.error:
            raise BtfError("BTF ends in its header") from None
        if magic != _MAGIC or version != 1 or length < 24:
            raise BtfError(f"no BTF: magic {magic:#x}, version {version}, header of {length} bytes")
        if length + types + types_length > len(data) or length + strings + strings_length > len(data):
            raise BtfError("BTF is cut off")
        self._types = data[length + types : length + types + types_length]
        self._strings = data[length + strings : length + strings + strings_length]
        if self._strings[:1] != b"\0" or self._strings[-1:] != b"\0":
            raise BtfError("BTF's strings do not begin and end with a NUL")
        self._layout = _layout(data, length)
        self._read: dict[int, Type] = {}
        self._places: dict[str, int] = {}
        # By id: where the type begins, and where its name does.
        self._offsets = array("I", [0])
        self._names = self._walk()

    def __len__(self) -> int:
        return len(self._offsets)

    def type(self, type_id: int) -> Type:
        """The type of that id; 0 is void."""
        found = self._read.get(type_id)
        if found is None:
            try:
                found = self._read[type_id] = self._type(type_id)
            except (struct.error, IndexError):
                raise BtfError(f"BTF type {type_id} is not there or damaged") from None
        return found

    def resolve(self, type_id: int) -> Type:
        """The type behind typedefs and qualifiers."""
        for _ in range(_DEEPEST):
            found = self.type(type_id)
            if found.kind not in _QUALIFIERS:
                return found
            type_id = found.type_id
        raise BtfError(f"BTF type {type_id} is made of itself")

    def ids(self, name: str) -> Iterator[int]:
        """All types of that very name, whatever their kind."""
        # Who writes BTF has each string once. A kernel has megabytes of them.
        at = self._places.get(name)
        if at is None:
            at = self._places[name] = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if name and at:
            yield from self._named(at)

    def ids_with_prefix(self, prefix: str) -> Iterator[int]:
        """All types whose name begins so."""
        raw, at, wanted = b"\0" + prefix.encode(), -1, set()
        while (at := self._strings.find(raw, at + 1)) >= 0:
            wanted.add(at + 1)
        return (type_id for type_id, name in enumerate(self._names) if name in wanted)

    def find(self, name: str, *kinds: str) -> Type | None:
        """The first type of that name and one of those kinds."""
        for type_id in self.ids(name):
            # The kind alone costs little; most of a name's types are of another one.
            if self.kind(type_id) in kinds:
                return self.type(type_id)
        return None

    def kind(self, type_id: int) -> str:
        """The kind of a type, without reading all of it."""
        try:
            (info,) = struct.unpack_from("<I", self._types, self._offsets[type_id] + 4)
        except (struct.error, IndexError):
            raise BtfError(f"BTF type {type_id} is not there") from None
        return _kind(info) if type_id else "void"

    def all(self, *kinds: str) -> Iterator[Type]:
        """All types of those kinds, in order."""
        for type_id in range(1, len(self)):
            if self.kind(type_id) in kinds:
                yield self.type(type_id)

    def string(self, offset: int) -> str:
        """The string at `offset`."""
        if not 0 <= offset < len(self._strings):
            raise BtfError(f"BTF string {offset} is out of range")
        return self._strings[offset : self._strings.index(b"\0", offset)].decode("utf-8", "replace")

    def size(self, type_id: int) -> int:
        """sizeof; 0 for what has none."""
        found = self.resolve(type_id)
        length = 1
        for _ in range(_DEEPEST):
            if found.kind != "array":
                return length * (8 if found.kind == "ptr" else found.size)
            length *= found.count
            found = self.resolve(found.type_id)
        raise BtfError(f"BTF type {type_id} is made of itself")

    def member(self, type_id: int, name: str) -> Member | None:
        """The member of that name, those of anonymous structs and unions inside too, its offset from the outermost."""
        return self._member(type_id, name, 0, 0)

    def spell(self, type_id: int) -> str:
        """The type as C would name it: "struct task_struct *", "u64"."""
        words, stars = [], ""
        for _ in range(_DEEPEST):
            found = self.type(type_id)
            if found.kind == "ptr":
                stars += "*"
            elif found.kind in ("const", "volatile", "restrict"):
                words.append(found.kind)
            elif found.kind != "type_tag":
                tag = f"{found.kind} " if found.kind in ("struct", "union", "enum") else ""
                words.append(tag + (found.name or found.kind))
                break
            type_id = found.type_id
        return " ".join([*words, stars]).strip()

    def _member(self, type_id: int, name: str, base: int, depth: int) -> Member | None:
        for member in self.resolve(type_id).members:
            if member.name == name:
                return Member(name, member.type_id, base + member.bit_offset, member.bit_size)
            if not member.name and depth < _DEEPEST and self.resolve(member.type_id).kind in ("struct", "union"):
                inner = self._member(member.type_id, name, base + member.bit_offset, depth + 1)
                if inner is not None:
                    return inner
        return None

    def _named(self, offset: int) -> Iterator[int]:
        at = self._first.get(offset)
        while at is not None:
            yield at
            # Few names have more than one type.
            at = self._names.index(offset, at + 1) if at < self._last[offset] else None

    # The first and the last type of each name.
    @cached_property
    def _first(self) -> dict[int, int]:
        return dict(zip(reversed(self._names), range(len(self._names) - 1, -1, -1), strict=True))

    @cached_property
    def _last(self) -> dict[int, int]:
        return dict(zip(self._names, range(len(self._names)), strict=True))

    def _walk(self) -> array[int]:
        offsets, names = self._offsets, array("I", [0])
        types, at, end = self._types, 0, len(self._types)
        sizes: dict[int, int] = {}
        unpack = struct.Struct("<II").unpack_from
        try:
            while at < end:
                name, info = unpack(types, at)
                offsets.append(at)
                names.append(name)
                size = sizes.get(info)
                if size is None:
                    size = sizes[info] = self._length(info)
                at += size
        except struct.error:
            raise BtfError("BTF's types are cut off") from None
        if at != end:
            raise BtfError("BTF's last type is cut off")
        return names

    def _length(self, info: int) -> int:
        kind, vlen = info >> 24 & 0x7F, info & 0xFFFFFF
        if 1 <= kind < len(_KINDS):
            return 12 + _EXTRA.get(kind, (0, 0))[0] + _EACH.get(kind, 0) * vlen
        if kind in self._layout and kind:
            whole, each = self._layout[kind]
            return 12 + whole + each * vlen
        raise BtfError(f"BTF has a kind {kind} that nobody knows")

    def _type(self, type_id: int) -> Type:
        if type_id == 0:
            return Type(0, "void", "void")
        if type_id < 0:
            raise BtfError(f"BTF type {type_id} is not there")
        at = self._offsets[type_id]
        name_at, info, size = struct.unpack_from("<III", self._types, at)
        kind, vlen, flag, at = _kind(info), info & 0xFFFFFF, bool(info >> 31), at + 12
        name = self.string(name_at)
        members: tuple[Member, ...] = ()
        match kind:
            case "int":
                (word,) = struct.unpack_from("<I", self._types, at)
                return Type(type_id, kind, name, size, signed=bool(word >> 24 & 1), boolean=bool(word >> 26 & 1))
            case "fwd":
                return Type(type_id, kind, name, union=flag)
            case "array":
                element, _, count = struct.unpack_from("<III", self._types, at)
                return Type(type_id, kind, name, type_id=element, count=count)
            case "struct" | "union":
                members = tuple(
                    Member(self.string(n), t, offset & 0xFFFFFF, offset >> 24)
                    if flag
                    else Member(self.string(n), t, offset)
                    for n, t, offset in self._elements("<III", at, vlen)
                )
                return Type(type_id, kind, name, size, members=members)
            case "enum" | "enum64":
                return Type(type_id, kind, name, size, enumerators=self._values(kind, at, vlen, flag), signed=flag)
            case "func_proto":
                members = tuple(Member(self.string(n), t) for n, t in self._elements("<II", at, vlen))
                return Type(type_id, kind, name, type_id=size, members=members)
            case "datasec":
                members = tuple(Member("", t, offset * 8, n * 8) for t, offset, n in self._elements("<III", at, vlen))
                return Type(type_id, kind, name, size, members=members)
            case "decl_tag":
                (component,) = struct.unpack_from("<i", self._types, at)
                return Type(type_id, kind, name, type_id=size, component=component)
            case "func":
                return Type(type_id, kind, name, type_id=size, linkage=vlen)
            case "var":
                (linkage,) = struct.unpack_from("<I", self._types, at)
                return Type(type_id, kind, name, type_id=size, linkage=linkage)
        return Type(type_id, kind, name, type_id=size) if kind in _REFERS else Type(type_id, kind, name, size)

    def _values(self, kind: str, at: int, vlen: int, signed: bool) -> tuple[Enumerator, ...]:
        if kind == "enum":
            return tuple(Enumerator(self.string(n), v) for n, v in self._elements("<Ii" if signed else "<II", at, vlen))
        return tuple(
            Enumerator(self.string(n), (high << 32 | low) - (1 << 64 if signed and high >> 31 else 0))
            for n, low, high in self._elements("<III", at, vlen)
        )

    def _elements(self, form: str, at: int, count: int) -> Iterator[tuple[int, ...]]:
        size = struct.calcsize(form) * count
        if at + size > len(self._types):
            raise BtfError("a type of BTF is cut off")
        return struct.iter_unpack(form, self._types[at : at + size])


def _kind(info: int) -> str:
    number = info >> 24 & 0x7F
    return _KINDS[number] if number < len(_KINDS) else f"kind{number}"


# The lengths of kinds, by number, if the section is there: struct btf_layout.
def _layout(data: bytes, header: int) -> dict[int, tuple[int, int]]:
    if header < 32:
        return {}
    at, length = struct.unpack_from("<II", data, 24)
    section = data[header + at : header + at + length]
    whole = section[: len(section) // 4 * 4]
    return {kind: (info, each) for kind, (info, each, _) in enumerate(struct.iter_unpack("<BBH", whole))}
