# SPDX-License-Identifier: Apache-2.0
"""The struct_ops tables of an object: which program is which op, and what the other members are."""

from __future__ import annotations

from collections.abc import Mapping

from kernloop.sched.obj.btf import Btf, BtfError, Member
from kernloop.sched.obj.model import OpsTable, essential

__all__ = ["SECTIONS", "OpsTable", "table"]

# The first is attached by a link, the second when it is loaded; "?" makes a table optional.
SECTIONS = frozenset({".struct_ops.link", ".struct_ops", "?.struct_ops.link", "?.struct_ops"})


def table(name: str, section: str, content: bytes, programs: Mapping[int, str], btf: Btf) -> OpsTable:
    """The table `name`, whose bytes are `content`; `programs` by byte offset in it. Raises BtfError without a type."""
    variable = btf.find(name, "var")
    if variable is None:
        raise BtfError(f"BTF has no type for the ops table {name}")
    kind = btf.resolve(variable.type_id)
    members: dict[str, str] = {}
    scalars: dict[str, int | str] = {}
    for member in kind.members:
        program = programs.get(member.bit_offset // 8)
        if program is not None:
            members[member.name] = program
        else:
            value = _scalar(member, content, btf)
            if value:
                scalars[member.name] = value
    fields = tuple(member.name for member in kind.members)
    return OpsTable(name, section, members, scalars, essential(kind.name), kind.id, fields)


# The value of a member that is no function; 0 for one that is not set, and for what is no number or text.
def _scalar(member: Member, content: bytes, btf: Btf) -> int | str:
    kind, begin = btf.resolve(member.type_id), member.bit_offset // 8
    if kind.kind == "array":
        text = content[begin : begin + btf.size(member.type_id)]
        return text.split(b"\0")[0].decode("utf-8", "replace") if btf.size(kind.type_id) == 1 else 0
    if kind.kind not in ("int", "enum", "enum64"):
        return 0
    value = int.from_bytes(content[begin : begin + kind.size], "little", signed=kind.signed)
    if member.bit_size:
        value = value >> member.bit_offset % 8 & (1 << member.bit_size) - 1
    return value
