# SPDX-License-Identifier: Apache-2.0
"""The maps of an object, by the types of section .maps (linux tools/lib/bpf/libbpf.c, parse_btf_map_def)."""

from __future__ import annotations

from collections.abc import Iterator

from kernloop.sched.obj import uapi
from kernloop.sched.obj.btf import Btf, Member, Type
from kernloop.sched.obj.model import Map

__all__ = ["read"]

# What the kernel knows by its name in a value (kernel/bpf/btf.c, btf_get_field_type).
_SPECIAL = frozenset(
    {
        "bpf_spin_lock",
        "bpf_res_spin_lock",
        "bpf_timer",
        "bpf_wq",
        "bpf_list_head",
        "bpf_list_node",
        "bpf_rb_root",
        "bpf_rb_node",
        "bpf_refcount",
        "bpf_task_work",
    }
)
_KPTRS = frozenset({"kptr", "kptr_untrusted", "percpu_kptr", "uptr"})
_DEEPEST = 8


def read(btf: Btf) -> Iterator[Map]:
    """All maps of section .maps."""
    for section in btf.all("datasec"):
        if section.name == ".maps":
            for member in section.members:
                variable = btf.type(member.type_id)
                yield _map(variable.name, btf.resolve(variable.type_id), btf)


def _map(name: str, definition: Type, btf: Btf) -> Map:
    numbers: dict[str, int] = {}
    types: dict[str, int] = {}
    inner = ""
    for member in definition.members:
        match member.name:
            case "type" | "max_entries" | "map_flags" | "key_size" | "value_size":
                numbers[member.name] = _number(member, btf)
            case "key" | "value":
                types[member.name] = btf.resolve(member.type_id).type_id
            case "values":
                inner = _inner(member, btf)
    return Map(
        name,
        uapi.map_type(numbers.get("type", 0)),
        numbers.get("key_size") or (btf.size(types["key"]) if "key" in types else 0),
        numbers.get("value_size") or (btf.size(types["value"]) if "value" in types else 0),
        numbers.get("max_entries", 0),
        numbers.get("map_flags", 0),
        inner,
        tuple(sorted(_specials(types.get("value", 0), btf, 0))),
        types.get("value", 0),
        types.get("key", 0),
    )


# __uint(name, N) is a pointer to an array of N; __ulong an enum's constant.
def _number(member: Member, btf: Btf) -> int:
    kind = btf.resolve(member.type_id)
    if kind.kind == "ptr":
        array = btf.resolve(kind.type_id)
        return array.count if array.kind == "array" else 0
    return kind.enumerators[0].value if kind.enumerators else 0


# __array(values, struct inner): an array of pointers.
def _inner(member: Member, btf: Btf) -> str:
    kind = btf.resolve(member.type_id)
    if kind.kind != "array":
        return ""
    pointer = btf.resolve(kind.type_id)
    return btf.resolve(pointer.type_id).name if pointer.kind == "ptr" else ""


def _specials(type_id: int, btf: Btf, depth: int) -> set[str]:
    kind = btf.resolve(type_id)
    if kind.kind == "array":
        return _specials(kind.type_id, btf, depth + 1) if depth < _DEEPEST else set()
    if kind.kind == "ptr":
        tag = btf.type(kind.type_id)
        return {tag.name} & _KPTRS if tag.kind == "type_tag" else set()
    if kind.name in _SPECIAL:
        return {kind.name}
    if kind.kind not in ("struct", "union") or depth >= _DEEPEST:
        return set()
    return {found for member in kind.members for found in _specials(member.type_id, btf, depth + 1)}
