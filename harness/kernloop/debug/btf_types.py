# SPDX-License-Identifier: Apache-2.0
"""Types of BTF for drgn, which itself knows DWARF only: what no prebuilt kernel has.

Members are made when drgn asks for them, so task_struct does not bring half of the kernel with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from drgn import Object, Program, Qualifiers, Type, TypeEnumerator, TypeKind, TypeKindSet, TypeMember, TypeParameter

from kernloop.sched.obj import btf as btfs
from kernloop.sched.obj.btf import Btf, BtfError

__all__ = ["BtfTypes"]

_KINDS = {
    TypeKind.STRUCT: ("struct",),
    TypeKind.UNION: ("union",),
    TypeKind.ENUM: ("enum", "enum64"),
    TypeKind.TYPEDEF: ("typedef",),
    TypeKind.INT: ("int",),
    TypeKind.BOOL: ("int",),
    TypeKind.FLOAT: ("float",),
}
_QUALIFIERS = {
    "const": Qualifiers.CONST,
    "volatile": Qualifiers.VOLATILE,
    "restrict": Qualifiers.RESTRICT,
}
# What drgn can hold; others are of damaged BTF, but for a long double.
_SIZES, _FLOATS = (1, 2, 4, 8, 16), (4, 8)
# No declaration nests deeper; one that does is damaged, and may refer to itself.
_DEEPEST = 64


class BtfTypes:
    """The types of `btf` in `prog`. Methods raise BtfError where BTF is damaged."""

    def __init__(self, prog: Program, btf: Btf) -> None:
        self._prog = prog
        self.btf = btf
        self._made: dict[int, Type] = {}
        self._named: dict[tuple[TypeKind, str], Type | None] = {}
        self._depth = 0

    def __call__(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        """A type finder (Program.register_type_finder). BTF does not know what file a type is of."""
        if filename is not None:
            return None
        for kind in kinds:
            if (kind, name) not in self._named:
                self._named[kind, name] = self._find(kind, name)
            if (found := self._named[kind, name]) is not None:
                return found
        return None

    def _find(self, kind: TypeKind, name: str) -> Type | None:
        wanted = _KINDS.get(kind, ())
        for number in self.btf.ids(name) if wanted else ():
            if self.btf.kind(number) in wanted and (found := self.type(number)).kind == kind:
                return found
        return None

    def type(self, number: int) -> Type:
        """The type with that number."""
        made = self._made.get(number)
        if made is None:
            self._depth += 1
            try:
                if self._depth > _DEEPEST:
                    raise BtfError(f"BTF type {number} is made of itself")
                made = self._made[number] = self._make(self.btf.type(number))
            except (ValueError, TypeError, OverflowError) as error:
                raise BtfError(f"BTF type {number} cannot be: {error}") from None
            finally:
                self._depth -= 1
        return made

    def variable(self, name: str) -> Type | None:
        """The type of a variable; the kernel's BTF has those that are per CPU (pahole's default)."""
        found = self.btf.find(name, "var")
        return self.type(found.type_id) if found else None

    def function(self, name: str) -> Type | None:
        found = self.btf.find(name, "func")
        return self.type(found.type_id) if found else None

    def constant(self, name: str) -> Object | None:
        """The enumerator called `name`."""
        found = self._constants.get(name)
        return Object(self._prog, self.type(found[0]), value=found[1]) if found else None

    @cached_property
    def _constants(self) -> dict[str, tuple[int, int]]:
        constants: dict[str, tuple[int, int]] = {}
        for one in self.btf.all("enum", "enum64"):
            for each in one.enumerators:
                constants.setdefault(each.name, (one.id, each.value))
        return constants

    def _make(self, one: btfs.Type) -> Type:
        prog = self._prog
        match one.kind:
            case "void":
                return prog.void_type()
            case "int" if one.boolean and one.size in _SIZES:
                return prog.bool_type(one.name, one.size)
            case "int" if one.size in _SIZES:
                return prog.int_type(one.name, one.size, one.signed)
            case "float" if one.size in _FLOATS:
                return prog.float_type(one.name, one.size)
            case "ptr":
                return prog.pointer_type(self.type(one.type_id))
            # An array of length 0 at a structure's end is a flexible one: BTF does not tell them apart.
            case "array":
                return prog.array_type(self.type(one.type_id), one.count)
            case "struct":
                return prog.struct_type(one.name or None, one.size, self._members(one))
            case "union":
                return prog.union_type(one.name or None, one.size, self._members(one))
            case "enum" | "enum64" if one.size in _SIZES:
                return self._enum(one)
            case "fwd":
                return self._declared(one)
            case "typedef":
                return prog.typedef_type(one.name, self.type(one.type_id))
            case "const" | "volatile" | "restrict":
                inner = self.type(one.type_id)
                return inner.qualified(inner.qualifiers | _QUALIFIERS[one.kind])
            case "func_proto":
                return self._function(one)
            case "type_tag" | "func" | "var":
                return self.type(one.type_id)
        raise BtfError(f"BTF type {one.id} is a {one.kind} of {one.size} bytes, which is no type")

    def _members(self, one: btfs.Type) -> list[TypeMember]:
        return [TypeMember(self._member(member), member.name or None, member.bit_offset) for member in one.members]

    def _member(self, member: btfs.Member) -> Callable[[], Type | Object]:
        if member.bit_size:
            return lambda: self._bit_field(member)
        return lambda: self._sized(member)

    # drgn asks for a member's size, which what is void has none of, behind whatever typedefs and arrays.
    def _sized(self, member: btfs.Member) -> Type:
        type_ = inner = self.type(member.type_id)
        while inner.kind in (TypeKind.TYPEDEF, TypeKind.ARRAY):
            inner = inner.type
        if inner.kind in (TypeKind.VOID, TypeKind.FUNCTION):
            raise BtfError(f"BTF member {member.name} cannot be of {type_.type_name()}")
        return type_

    def _bit_field(self, member: btfs.Member) -> Object:
        try:
            return Object(self._prog, self.type(member.type_id), bit_field_size=member.bit_size)
        except (ValueError, TypeError) as error:
            raise BtfError(f"BTF member {member.name} cannot be: {error}") from None

    def _enum(self, one: btfs.Type) -> Type:
        name = ("" if one.signed else "unsigned ") + ("int" if one.size <= 4 else "long")
        names = [TypeEnumerator(each.name, each.value) for each in one.enumerators]
        return self._prog.enum_type(one.name or None, self._prog.int_type(name, one.size, one.signed), names)

    # The last parameter of a function that takes more is nameless and void.
    def _function(self, one: btfs.Type) -> Type:
        variadic = bool(one.members) and not one.members[-1].name and not one.members[-1].type_id
        parameters = [
            TypeParameter(self._parameter(each.type_id), each.name or None)
            for each in one.members[: len(one.members) - variadic]
        ]
        return self._prog.function_type(self.type(one.type_id), parameters, variadic)

    def _parameter(self, number: int) -> Callable[[], Type]:
        return lambda: self.type(number)

    # A structure that one file only declares may be whole elsewhere.
    def _declared(self, one: btfs.Type) -> Type:
        whole = self.btf.find(one.name, "union" if one.union else "struct")
        if whole is not None:
            return self.type(whole.id)
        make = self._prog.union_type if one.union else self._prog.struct_type
        return make(one.name, None, None)
