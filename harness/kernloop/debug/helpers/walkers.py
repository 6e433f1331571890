# SPDX-License-Identifier: Apache-2.0
"""The kernel's containers, from whatever names their head: bounded, so that a damaged one ends as well."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from drgn import Object, Program, TypeKind
from drgn.helpers.linux.list import hlist_for_each_entry
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry
from drgn.helpers.linux.xarray import xa_for_each

from kernloop.debug.walk import entries, hash_entries

__all__ = ["walk_hash", "walk_hlist", "walk_list", "walk_rbtree", "walk_xarray"]

_MOST = 1 << 16


def walk_list(prog: Program, head: object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """The structures, as pointers, on a struct list_head: a name, an address, an object or a pointer to one.

    Raises kernloop.debug.walk.Broken where it does not come back to its head.
    """
    return entries(_head(prog, head, "struct list_head"), type_, member, most)


def walk_hlist(prog: Program, head: object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """As `walk_list`, of a struct hlist_head."""
    return islice(hlist_for_each_entry(type_, _head(prog, head, "struct hlist_head").address_of_(), member), most)


def walk_rbtree(prog: Program, root: object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """In order, of a struct rb_root, or of the one in a struct rb_root_cached."""
    found = _head(prog, root, "struct rb_root")
    if found.type_.type_name() == "struct rb_root_cached":
        found = found.rb_root
    return islice(rbtree_inorder_for_each_entry(type_, found.address_of_(), member), most)


def walk_xarray(prog: Program, array: object, type_: str = "", most: int = _MOST) -> Iterator[tuple[int, Object]]:
    """Index and entry, as a pointer to `type_`, of a struct xarray."""
    wanted = prog.type(f"{type_} *") if type_ else None
    for index, entry in islice(xa_for_each(_head(prog, array, "struct xarray").address_of_()), most):
        yield index, Object(prog, wanted, entry.value_()) if wanted else entry


def walk_hash(prog: Program, table: object, type_: str, member: str, most: int = _MOST) -> Iterator[Object]:
    """In no order, of a struct rhashtable. Raises Broken."""
    return hash_entries(_head(prog, table, "struct rhashtable"), type_, member, most)


# The structure that is named, with its address.
def _head(prog: Program, what: object, type_: str) -> Object:
    if isinstance(what, Object):
        return what[0] if _underlying(what) == TypeKind.POINTER else what
    if isinstance(what, str):
        try:
            return prog[what]
        except LookupError:
            what = prog.symbol(what).address  # a variable that BTF leaves out
    assert isinstance(what, int)
    return Object(prog, type_, address=what)


def _underlying(one: Object) -> TypeKind:
    type_ = one.type_
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_.kind
