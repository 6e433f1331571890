# SPDX-License-Identifier: Apache-2.0
"""BPF maps and programs in a kernel's memory, and what maps hold, by the BTF that their program brought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from drgn import FaultError, Object, Program, Type, TypeKind, TypeMember, cast, container_of
from drgn.helpers.linux.bpf import bpf_map_for_each, bpf_prog_for_each, bpf_prog_used_maps
from drgn.helpers.linux.list import hlist_for_each_entry

from kernloop.debug.btf_types import BtfTypes
from kernloop.debug.values import Limits, plain
from kernloop.debug.walk import nulls, per_cpu
from kernloop.sched.obj.btf import Btf, BtfError

__all__ = ["Element", "MapInfo", "Maps", "Page", "programs", "struct_ops_data", "struct_ops_programs"]

_ARRAYS = ("ARRAY", "PERCPU_ARRAY")
_HASHES = ("HASH", "LRU_HASH", "PERCPU_HASH", "LRU_PERCPU_HASH")
_QUEUES = ("QUEUE", "STACK")
_STORAGES = ("TASK_STORAGE", "CGRP_STORAGE", "CGROUP_STORAGE", "INODE_STORAGE", "SK_STORAGE")
_SECTIONS = (".bss", ".data", ".rodata", ".kconfig")
_MOST_BTF = 16 << 20
_MOST_INNER = 1024
# More than any bucket holds.
_MOST_CHAIN = 1 << 16
_MAX_PREFIX = "BPF_MAP_TYPE_"


@dataclass(frozen=True)
class MapInfo:
    """A map. `entries` is None where its kind does not say; `section` is that of a program's global variables."""

    id: int
    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    entries: int | None
    section: str


@dataclass(frozen=True)
class Element:
    """`value` is one by CPU in a map with a value for each CPU."""

    key: Any
    value: Any


@dataclass(frozen=True)
class Page:
    """Elements of a map from number `since` on; `cursor` where the next page begins, None behind the last."""

    elements: tuple[Element, ...]
    since: int
    cursor: int | None


def programs(prog: Program) -> Iterator[Object]:
    """All BPF programs, as struct bpf_prog *."""
    yield from bpf_prog_for_each(prog)


class Maps:
    """The maps of one kernel. Methods raise BtfError or FaultError where memory is damaged."""

    def __init__(self, prog: Program, cpus: list[int]) -> None:
        self.prog = prog
        self._cpus = cpus
        self._btfs: dict[int, BtfTypes] = {}

    def program_name(self, program: Object) -> str:
        """Its whole name where its BTF has it: bpf_prog_aux.name holds 15 characters."""
        aux = program.aux
        if aux.btf and aux.func_info:
            types = self.types_of(aux.btf)
            return types.btf.type(aux.func_info[aux.func_idx.value_()].type_id.value_()).name
        return str(aux.name.string_().decode(errors="replace"))

    def used_by(self, used: list[Object]) -> dict[int, Object]:
        """Maps by id that these programs use."""
        found: dict[int, Object] = {}
        for program in used:
            for one in bpf_prog_used_maps(program):
                found.setdefault(one.id.value_(), one)
        return found

    def all(self) -> dict[int, Object]:
        return {one.id.value_(): one for one in bpf_map_for_each(self.prog)}

    def info(self, map_: Object) -> MapInfo:
        """`map_` is a struct bpf_map *."""
        name = map_.name.string_().decode(errors="replace")
        kind = self._kind(map_)
        sizes = (map_.key_size.value_(), map_.value_size.value_(), map_.max_entries.value_())
        section = next((one for one in _SECTIONS if name.endswith(one) or name.startswith(one)), "")
        return MapInfo(
            map_.id.value_(),
            name,
            kind.lower(),
            *sizes,
            self._count(map_, kind),
            section if kind == "ARRAY" and sizes[2] == 1 else "",
        )

    def inner(self, map_: Object) -> dict[int, Object]:
        """The maps in a map of maps, by their place; of hashes none."""
        if self._kind(map_) != "ARRAY_OF_MAPS":
            return {}
        slots = self._array(map_).ptrs
        held = {place: slots[place] for place in range(min(map_.max_entries.value_(), _MOST_INNER))}
        return {place: cast("struct bpf_map *", one) for place, one in held.items() if one}

    def queued(self, map_: Object) -> list[int]:
        """The values of a queue or stack of numbers of four or eight bytes, the next one first; else nothing."""
        kind, size = self._kind(map_), map_.value_size.value_()
        if kind not in _QUEUES or size not in (4, 8):
            return []
        return [int.from_bytes(self.prog.read(at, size), "little") for at in self._queue_places(map_, kind)]

    def variables(self, map_: Object, limits: Limits | None = None) -> dict[str, Any]:
        """The global variables in a section, by name."""
        types = self._types(map_)
        if types is None:
            return {}
        section = types.btf.type(map_.btf_value_type_id.value_())
        if section.kind != "datasec":
            return {}
        begin = self._array(map_).value.address_of_().value_()
        found: dict[str, Any] = {}
        for each in section.members:
            at = begin + each.bit_offset // 8
            found[types.btf.type(each.type_id).name] = plain(
                Object(self.prog, types.type(each.type_id), address=at), limits
            )
        return found

    def page(self, map_: Object, since: int, count: int, limits: Limits | None = None) -> Page:
        """Some elements."""
        kind = self._kind(map_)
        elements: Iterator[Element]
        if self.info(map_).section and map_.btf:
            elements = iter([Element(0, self.variables(map_, limits))][since:])
        elif kind in _ARRAYS:
            elements = self._array_elements(map_, kind, since, limits)
        else:
            elements = islice(self._elements(map_, kind, limits), since, None)
        shown = tuple(islice(elements, count))
        more = next(elements, None) is not None
        return Page(shown, since, since + len(shown) if more else None)

    def _elements(self, map_: Object, kind: str, limits: Limits | None) -> Iterator[Element]:
        if kind in _HASHES:
            return self._hash_elements(map_, kind, limits)
        if kind in _QUEUES:
            return self._queue_elements(map_, kind, limits)
        if kind in _STORAGES:
            return self._storage_elements(map_, kind, limits)
        named = ((place, each.name.string_().decode(errors="replace")) for place, each in self.inner(map_).items())
        return (Element(place, name) for place, name in named)

    def _kind(self, map_: Object) -> str:
        number = map_.map_type.value_()
        names = [name for name, value in map_.map_type.type_.enumerators or () if value == number]
        # Old names stay as aliases, which stand behind the new ones or are marked.
        names = [name for name in names if "DEPRECATED" not in name] or names
        return names[0].removeprefix(_MAX_PREFIX) if names else str(number)

    def _count(self, map_: Object, kind: str) -> int | None:
        if kind in _ARRAYS:
            return int(map_.max_entries)
        if kind in _HASHES:
            return sum(1 for _ in self._hash_nodes(self._htab(map_)))
        if kind in _QUEUES:
            queue = self._queue(map_)
            return int((queue.head - queue.tail + queue.size) % queue.size)
        if kind in _STORAGES:
            return sum(1 for _ in self._storage_nodes(map_))
        if kind == "ARENA":
            arena = container_of(map_, self.prog.type("struct bpf_arena"), "map")
            return int(arena.nr_pages) if arena.type_.type.has_member("nr_pages") else None
        return None

    def _array(self, map_: Object) -> Object:
        return container_of(map_, self.prog.type("struct bpf_array"), "map")

    def _htab(self, map_: Object) -> Object:
        return container_of(map_, self.prog.type("struct bpf_htab"), "map")

    def _queue(self, map_: Object) -> Object:
        return container_of(map_, self.prog.type("struct bpf_queue_stack"), "map")

    # Types of the key and of the value; None without BTF.
    def _key_and_value(self, map_: Object) -> tuple[Type | None, Type | None]:
        types = self._types(map_)
        if types is None:
            return None, None
        key, value = map_.btf_key_type_id.value_(), map_.btf_value_type_id.value_()
        return types.type(key) if key else None, types.type(value) if value else None

    def _types(self, map_: Object) -> BtfTypes | None:
        if not map_.btf:
            return None
        return self.types_of(map_.btf)

    def types_of(self, btf: Object) -> BtfTypes:
        """The types of a struct btf *, as a program brought them."""
        at = btf.value_()
        if at not in self._btfs:
            size = btf.data_size.value_()
            if size > _MOST_BTF or btf.base_btf:
                raise BtfError("BTF that is no program's")
            self._btfs[at] = BtfTypes(self.prog, Btf(self.prog.read(btf.data.value_(), size)))
        return self._btfs[at]

    def _shown(self, type_: Type | None, address: int, size: int, limits: Limits | None) -> Any:
        if type_ is not None and type_.kind.name != "VOID":
            return plain(Object(self.prog, type_, address=address), limits)
        return self.prog.read(address, min(size, 64)).hex()

    def _array_elements(self, map_: Object, kind: str, since: int, limits: Limits | None) -> Iterator[Element]:
        array, size = self._array(map_), map_.value_size.value_()
        _, type_ = self._key_and_value(map_)
        for place in range(since, map_.max_entries.value_()):
            if kind == "ARRAY":
                at = array.value.address_of_().value_() + place * array.elem_size.value_()
                yield Element(place, self._shown(type_, at, size, limits))
            else:
                yield Element(place, self._each_cpu(array.pptrs[place], type_, size, limits))

    def _each_cpu(self, pointer: Object, type_: Type | None, size: int, limits: Limits | None) -> dict[str, Any]:
        return {str(cpu): self._shown(type_, per_cpu(pointer, cpu).value_(), size, limits) for cpu in self._cpus}

    # kernel/bpf/hashtab.c: the value lies behind the key, at a multiple of eight.
    def _hash_elements(self, map_: Object, kind: str, limits: Limits | None) -> Iterator[Element]:
        key_type, value_type = self._key_and_value(map_)
        key_size, size = map_.key_size.value_(), map_.value_size.value_()
        for node in self._hash_nodes(self._htab(map_)):
            key = node.key.address_of_().value_()
            behind = key + (key_size + 7 & ~7)
            name = self._shown(key_type, key, key_size, limits)
            if "PERCPU" in kind:
                pointer = Object(self.prog, "void *", address=behind)
                yield Element(name, self._each_cpu(pointer.read_(), value_type, size, limits))
            else:
                yield Element(name, self._shown(value_type, behind, size, limits))

    def _hash_nodes(self, htab: Object) -> Iterator[Object]:
        wanted = self.prog.type("struct htab_elem")
        for place in range(htab.n_buckets.value_()):
            at = htab.buckets[place].head.first
            for _ in range(_MOST_CHAIN):
                if not at or nulls(at):
                    break
                yield container_of(at, wanted, "hash_node")
                at = at.next

    # kernel/bpf/queue_stack_maps.c: a queue gives the element at `tail` next, a stack that before `head`.
    def _queue_elements(self, map_: Object, kind: str, limits: Limits | None) -> Iterator[Element]:
        _, type_ = self._key_and_value(map_)
        for turn, at in enumerate(self._queue_places(map_, kind)):
            yield Element(turn, self._shown(type_, at, map_.value_size.value_(), limits))

    def _queue_places(self, map_: Object, kind: str) -> list[int]:
        queue = self._queue(map_)
        size, room = map_.value_size.value_(), queue.size.value_()
        head, tail = queue.head.value_(), queue.tail.value_()
        begin = queue.elements.address_of_().value_()
        places = [begin + place % room * size for place in range(tail, tail + (head - tail) % room)]
        return places if kind == "QUEUE" else places[::-1]

    def _storage_nodes(self, map_: Object) -> Iterator[Object]:
        storage = container_of(map_, self.prog.type("struct bpf_local_storage_map"), "map")
        for place in range(1 << storage.bucket_log.value_()):
            nodes = hlist_for_each_entry(
                "struct bpf_local_storage_elem", storage.buckets[place].list.address_of_(), "map_node"
            )
            yield from islice(nodes, _MOST_CHAIN)

    def _storage_elements(self, map_: Object, kind: str, limits: Limits | None) -> Iterator[Element]:
        _, type_ = self._key_and_value(map_)
        size = map_.value_size.value_()
        for node in self._storage_nodes(map_):
            at = node.sdata.data.address_of_().value_()
            try:
                key: Any = self._owner(node.local_storage.owner, kind)
            except FaultError:
                key = None
            yield Element(key, self._shown(type_, at, size, limits))

    def _owner(self, owner: Object, kind: str) -> Any:
        if kind == "TASK_STORAGE":
            task = cast("struct task_struct *", owner)
            return f"{task.comm.string_().decode(errors='replace')}[{task.pid.value_()}]"
        return f"{owner.value_():#x}"


def struct_ops_data(map_: Object, type_: str) -> Object | None:
    """The kernel's structure in a struct_ops map, as a pointer; None where the map is none, or of another structure."""
    prog = map_.prog_
    if map_.map_type.value_() != prog.constant("BPF_MAP_TYPE_STRUCT_OPS"):
        return None
    ops = container_of(map_, prog.type("struct bpf_struct_ops_map"), "map")
    name = ops.st_ops_desc.st_ops.name.string_().decode(errors="replace")
    if type_ not in (f"struct {name}", f"struct {name.removesuffix('_cid')}"):
        return None
    return cast(f"{type_} *", ops.kvalue.data.address_of_())


def struct_ops_programs(map_: Object, data: Object) -> dict[str, Object]:
    """The programs of a struct_ops map, as struct bpf_prog *, by the op; `data` is its structure.

    They stand in the order of those members that are set (bpf_struct_ops_map_update_elem()).
    """
    ops = container_of(map_, map_.prog_.type("struct bpf_struct_ops_map"), "map")
    links = (ops.links[place] for place in range(ops.funcs_cnt.value_()))
    programs = [link.prog for link in links if link]
    named = [member.name or "" for member in data.type_.type.members or () if _is_set_op(data, member)]
    return dict(zip(named, programs, strict=False))


def _is_set_op(data: Object, member: TypeMember) -> bool:
    type_ = member.type
    if member.name is None or type_.kind != TypeKind.POINTER or type_.type.kind != TypeKind.FUNCTION:
        return False
    return bool(data.member_(member.name))
