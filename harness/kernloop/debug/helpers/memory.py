# SPDX-License-Identifier: Apache-2.0
"""What an address of memory is: an object of a slab cache, a page of a file or of anonymous memory."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Object, Program, TypeKind, cast
from drgn.helpers.linux.mm import compound_head, page_to_virt, virt_to_page
from drgn.helpers.linux.slab import slab_object_info

__all__ = ["PageInfo", "SlabObject", "page", "slab_object", "slab_of"]

# include/linux/page-flags.h: in a page's mapping.
_ANON, _MAPPING_FLAGS = 1, 3


@dataclass(frozen=True)
class SlabObject:
    """An object of a cache: where it begins, and whether it is allocated (None: not known)."""

    cache: str
    address: int
    size: int
    allocated: bool | None


@dataclass(frozen=True)
class PageInfo:
    """A page. `mapping` is "file", "anon", "slab" or ""; `owner` the file system,
    inode and page offset of a file's, the cache of a slab's."""

    address: int
    references: int
    mapping: str
    owner: str


def slab_object(prog: Program, address: int) -> SlabObject | None:
    """The object of a slab cache that has `address`, None when it is in none."""
    try:
        found = slab_object_info(prog, address)
    except (FaultError, LookupError, AttributeError, ValueError, NotImplementedError):
        return None
    if found is None:
        return None
    cache = found.slab_cache
    name = cache.name.string_().decode(errors="replace")
    return SlabObject(name, found.address, cache.object_size.value_(), found.allocated)


def slab_of(prog: Program, address: int) -> str:
    """`kmalloc-64+0x8`, or ""."""
    found = slab_object(prog, address)
    if found is None:
        return ""
    offset = address - found.address
    return f"{found.cache}+{offset:#x}" if offset else found.cache


def page(prog: Program, address: int | Object) -> PageInfo:
    """Of an address of the direct map, or of a struct page * or folio *.

    Raises FaultError, and LookupError for a kernel whose pages are not as drgn knows them.
    """
    if isinstance(address, Object) and _is_page(address):
        one = cast("struct page *", address)
        virtual = page_to_virt(one).value_()
    else:
        virtual = int(address)
        one = virt_to_page(Object(prog, "unsigned long", virtual))
    references = one._refcount.counter.value_()
    # Since 7.x a slab's page says so in its type only.
    if cache := slab_of(prog, virtual):
        return PageInfo(one.value_(), references, "slab", cache)
    # A folio's pages behind its first have no mapping of their own.
    head = compound_head(one)
    word = head.mapping.value_()
    if word & _ANON:
        return PageInfo(one.value_(), references, "anon", "")
    if not word:
        return PageInfo(one.value_(), references, "", "")
    inode = Object(prog, "struct address_space *", word & ~_MAPPING_FLAGS).host
    index = head.member_("__folio_index" if head.type_.type.has_member("__folio_index") else "index").value_()
    index += (one - head).value_()
    system = inode.i_sb.s_id.string_().decode(errors="replace")
    return PageInfo(one.value_(), references, "file", f"{system} inode {inode.i_ino.value_()} page {index}")


def _is_page(one: Object) -> bool:
    type_ = one.type_
    return type_.kind == TypeKind.POINTER and type_.type.unqualified().type_name() in ("struct page", "struct folio")
