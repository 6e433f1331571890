# SPDX-License-Identifier: Apache-2.0
"""Which member of a struct lies at an offset, by DWARF's types."""

from __future__ import annotations

from collections.abc import Iterator

import drgn

__all__ = ["members_at", "pointed", "pointer", "type_name"]

_COMPOUND = (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION, drgn.TypeKind.CLASS)
# Unions have several members at one offset.
_MOST = 3


def members_at(kind: drgn.Type, offset: int, size: int = 0) -> list[tuple[str, drgn.Type]]:
    """The members of `kind` that begin at `offset`, as `a.b[2].c` with their types; of `size` bytes if any are."""
    found = list(_members(_bare(kind), offset, ""))
    exact = [(name, member) for name, member in found if size and _size(member) == size]
    return (exact or found)[:_MOST]


def pointed(kind: drgn.Type) -> drgn.Type | None:
    """The struct that a pointer type points to; None for other types, and for an incomplete struct."""
    kind = _bare(kind)
    if kind.kind != drgn.TypeKind.POINTER:
        return None
    target = _bare(kind.type)
    return target if target.kind in _COMPOUND and target.is_complete() else None


def pointer(kind: drgn.Type) -> bool:
    """Whether a type is that of a pointer."""
    return bool(_bare(kind).kind == drgn.TypeKind.POINTER)


def type_name(kind: drgn.Type) -> str:
    """As C writes it, without const and volatile."""
    return str(kind.unqualified().type_name())


def _members(kind: drgn.Type, offset: int, prefix: str) -> Iterator[tuple[str, drgn.Type]]:
    if kind.kind == drgn.TypeKind.ARRAY:
        size = _size(kind.type)
        if size:
            yield from _members(_bare(kind.type), offset % size, f"{prefix}[{offset // size}]")
        return
    if kind.kind not in _COMPOUND or not kind.is_complete():
        if offset == 0 and prefix:
            yield prefix, kind
        return
    for member in kind.members:
        begin, inner = member.bit_offset // 8, member.type
        length = _size(inner)
        if not begin <= offset < begin + max(length, 1):
            continue
        name = f"{prefix}.{member.name}" if prefix and member.name else prefix or member.name or ""
        yield from _members(_bare(inner), offset - begin, name)


def _bare(kind: drgn.Type) -> drgn.Type:
    while kind.kind == drgn.TypeKind.TYPEDEF:
        kind = kind.type
    return kind.unqualified()


def _size(kind: drgn.Type) -> int:
    try:
        return int(drgn.sizeof(kind))
    except TypeError:
        return 0
