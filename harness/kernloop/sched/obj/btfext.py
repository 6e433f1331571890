# SPDX-License-Identifier: Apache-2.0
"""Section .BTF.ext: the lines of instructions, what CO-RE patches in them (linux tools/lib/bpf/libbpf_internal.h)."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeVar

from kernloop.sched.obj.btf import Btf, BtfError
from kernloop.sched.obj.model import Core, Line

__all__ = ["Ext", "read"]

# enum bpf_core_relo_kind
_KINDS = (
    "field_byte_offset field_byte_size field_exists field_signed field_lshift_u64 field_rshift_u64 type_id_local"
    " type_id_target type_exists type_size enumval_exists enumval_value type_matches"
)


@dataclass(frozen=True)
class Ext:
    """By section: byte offsets in it, in order, each with what is there."""

    lines: dict[str, list[tuple[int, Line]]]
    cores: dict[str, list[tuple[int, Core]]]

    def lines_in(self, section: str, begin: int, end: int) -> dict[int, Line]:
        """The lines from byte `begin` to `end`, by slot from `begin`."""
        return _between(self.lines.get(section, []), begin, end)

    def cores_in(self, section: str, begin: int, end: int) -> dict[int, Core]:
        """What CO-RE patches from byte `begin` to `end`, by slot from `begin`."""
        return _between(self.cores.get(section, []), begin, end)


def read(data: bytes, btf: Btf) -> Ext:
    """Raises BtfError for what is damaged."""
    try:
        magic, version, _, length = struct.unpack_from("<HBBI", data)
        if magic != 0xEB9F or version != 1:
            raise BtfError("no .BTF.ext: wrong magic or version")
        lines = _lines(data, length, btf)
        # The first version had no CO-RE.
        cores = _cores(data, length, btf) if length >= 32 else {}
    except struct.error:
        raise BtfError(".BTF.ext is cut off") from None
    return Ext(_ordered(lines), _ordered(cores))


_Found = TypeVar("_Found")


def _ordered(found: dict[str, dict[int, _Found]]) -> dict[str, list[tuple[int, _Found]]]:
    return {name: sorted(rows.items(), key=itemgetter(0)) for name, rows in found.items()}


def _between(rows: list[tuple[int, _Found]], begin: int, end: int) -> dict[int, _Found]:
    first = bisect_left(rows, begin, key=itemgetter(0))
    last = bisect_left(rows, end, key=itemgetter(0))
    return {(at - begin) // 8: what for at, what in rows[first:last]}


def _lines(data: bytes, length: int, btf: Btf) -> dict[str, dict[int, Line]]:
    at, size = struct.unpack_from("<II", data, 16)
    found: dict[str, dict[int, Line]] = {}
    texts: dict[int, str] = {}
    kept: dict[tuple[int, int, int], Line] = {}
    for section, (where, file, text, place) in _records(data, length + at, size, btf):
        line = kept.get((file, text, place))
        if line is None:
            for offset in (file, text):
                if offset not in texts:
                    texts[offset] = btf.string(offset)
            line = kept[file, text, place] = Line(texts[file], place >> 10, place & 1023, texts[text].strip())
        found.setdefault(section, {})[where] = line
    return found


def _cores(data: bytes, length: int, btf: Btf) -> dict[str, dict[int, Core]]:
    at, size = struct.unpack_from("<II", data, 24)
    kinds = _KINDS.split()
    found: dict[str, dict[int, Core]] = {}
    kept: dict[tuple[int, int, int], Core] = {}
    for section, (where, type_id, access, kind) in _records(data, length + at, size, btf):
        core = kept.get((type_id, access, kind))
        if core is None:
            if kind >= len(kinds):
                raise BtfError(f"a CO-RE relocation of a kind {kind} that nobody knows")
            text = btf.string(access)
            core = Core(kinds[kind], type_id, text, _name(btf, kinds[kind], type_id, text))
            kept[type_id, access, kind] = core
        found.setdefault(section, {})[where] = core
    return found


# All records of four words in an info section, each with the name of the ELF section that it is of.
def _records(data: bytes, at: int, size: int, btf: Btf) -> Iterator[tuple[str, tuple[int, ...]]]:
    if not size:
        return
    end = at + size
    (each,) = struct.unpack_from("<I", data, at)
    if each < 16:
        raise BtfError(f".BTF.ext has records of {each} bytes")
    at += 4
    while at < end:
        name, count = struct.unpack_from("<II", data, at)
        section = btf.string(name)
        at += 8
        raw = data[at : at + each * count]
        if len(raw) < each * count:
            raise BtfError(".BTF.ext is cut off")
        # A record may have grown since: what is behind the four words is of no interest.
        for row in struct.iter_unpack(f"<IIII{each - 16}x", raw):
            yield section, row
        at += each * count


def _name(btf: Btf, kind: str, type_id: int, access: str) -> str:
    root = btf.resolve(type_id)
    parts = [btf.type(type_id).name or root.name]
    try:
        steps = [int(step) for step in access.split(":")]
        if kind.startswith("enumval"):
            return ".".join([*parts, root.enumerators[steps[0]].name])
        # The first step indexes an array of the type itself.
        for step in steps[1:]:
            if root.kind == "array":
                parts.append(str(step))
                root = btf.resolve(root.type_id)
            else:
                member = root.members[step]
                if member.name:
                    parts.append(member.name)
                root = btf.resolve(member.type_id)
    except (ValueError, IndexError):
        raise BtfError(f"a CO-RE relocation goes to {access!r} of {parts[0]}, which is not there") from None
    return ".".join(parts)
