# SPDX-License-Identifier: Apache-2.0
"""Lists and tables of a kernel that may run on while they are walked: bounded, and never for ever.

A list that changes under the walk may lead into another one, or in a circle. What does is told by `Broken`; whoever
walks looks again, or says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Object, Type, cast, container_of, sizeof

__all__ = ["Broken", "copy", "entries", "hash_entries", "nulls", "per_cpu", "per_cpu_variable"]

# More than any list of a guest that can be shown.
_MOST = 1 << 16


class Broken(Exception):
    """A list that does not come back to where it begins."""


def entries(head: Object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """The structures, as pointers, on the list of `head` (struct list_head). Raises Broken."""
    prog = head.prog_
    wanted = prog.type(type_)
    begin = head.address_
    before, at = head, head.next
    for _ in range(most):
        if at.value_() == begin:
            return
        try:
            if at.prev.value_() != before.address_of_().value_():
                raise Broken
            yield container_of(at, wanted, member)
            before, at = at[0], at.next
        except FaultError:
            raise Broken from None
    raise Broken


def hash_entries(table: Object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """The structures, as pointers, in `table` (struct rhashtable), in no order (include/linux/rhashtable.h).

    Raises Broken, also for a table whose buckets are nested: so it is for a moment when it grows without memory.
    """
    prog = table.prog_
    wanted, head = prog.type(type_), prog.type("struct rhash_head *")
    buckets = table.tbl
    found = 0
    try:
        while buckets:
            if buckets.nest:
                raise Broken
            begin = buckets.buckets.address_of_().value_()
            size = buckets.size.value_()
            if size > _MOST:
                raise Broken
            raw = prog.read(begin, 8 * size)
            for place in range(size):
                # Bit 0 is the bucket's lock; in what follows it marks the end.
                at = Object(prog, head, int.from_bytes(raw[8 * place : 8 * place + 8], "little") & ~1)
                while at and not nulls(at):
                    found += 1
                    if found > most:
                        raise Broken
                    yield container_of(at, wanted, member)
                    at = at.next
            buckets = buckets.future_tbl
    except FaultError:
        raise Broken from None


def nulls(pointer: Object) -> bool:
    """Whether a pointer marks the end of its list (include/linux/list_nulls.h)."""
    return bool(pointer.value_() & 1)


def per_cpu(pointer: Object, cpu: int) -> Object:
    """What a `__percpu` pointer points to on one CPU, as a pointer."""
    offset = pointer.prog_["__per_cpu_offset"][cpu]
    return cast(pointer.type_, cast("unsigned long", pointer) + offset)


def per_cpu_variable(variable: Object, cpu: int) -> Object:
    """A per-CPU variable as it is on one CPU."""
    return per_cpu(variable.address_of_(), cpu)[0]


def copy(pointer: Object) -> Object:
    """The structure behind a pointer as it is now: its members fit together, and need no more reads."""
    type_: Type = pointer.type_.type
    return Object.from_bytes_(pointer.prog_, type_, pointer.prog_.read(pointer.value_(), sizeof(type_)))
