# SPDX-License-Identifier: Apache-2.0
"""An object of drgn as what JSON can hold: bounded in depth, in elements and in all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from drgn import FaultError, Object, ObjectAbsentError, Type, TypeKind

__all__ = ["Limits", "plain"]

_WORDS = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)
_MORE = "..."


@dataclass(frozen=True)
class Limits:
    """How deep structures are shown, how many elements of each array, how many values at all."""

    depth: int = 4
    elements: int = 16
    values: int = 400


class _Room:
    def __init__(self, values: int) -> None:
        self.left = values

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def plain(value: Object, limits: Limits | None = None) -> Any:
    """Numbers and truth values as such, enumerators by name, pointers as hexadecimal text, arrays of characters as
    text, structures as objects; "..." where a limit is. What cannot be read is None."""
    limits = limits or Limits()
    return _plain(value, limits, _Room(limits.values))


def _plain(value: Object, limits: Limits, room: _Room) -> Any:
    if not room.take():
        return _MORE
    type_ = _underlying(value.type_)
    try:
        if type_.kind in _WORDS:
            return _members(value, type_, limits, room)
        if type_.kind == TypeKind.ARRAY:
            return _elements(value, type_, limits, room)
        if type_.kind == TypeKind.ENUM:
            number = value.value_()
            names = [name for name, known in type_.enumerators or () if known == number]
            return names[0] if names else number
        if type_.kind in (TypeKind.POINTER, TypeKind.FUNCTION):
            return f"{value.value_() if type_.kind == TypeKind.POINTER else value.address_ or 0:#x}"
        if type_.kind == TypeKind.VOID:
            return None
        return value.value_()
    except (FaultError, ObjectAbsentError, TypeError, ValueError):
        return None


def _members(value: Object, type_: Type, limits: Limits, room: _Room) -> Any:
    if type_.members is None or not limits.depth:
        return _MORE
    inner = replace(limits, depth=limits.depth - 1)
    found: dict[str, Any] = {}
    for place, member in enumerate(type_.members):
        if room.left <= 0:
            found[_MORE] = len(type_.members) - place
            break
        if member.name is not None:
            found[member.name] = _plain(value.member_(member.name), inner, room)
            continue
        # Members of a nameless structure are the outer one's.
        within = _plain(_nameless(value, member.type, member.bit_offset), limits, room)
        found.update(within if isinstance(within, dict) else {})
    return found


def _nameless(value: Object, type_: Type, bit_offset: int) -> Object:
    if value.address_ is not None:
        return Object(value.prog_, type_, address=value.address_ + bit_offset // 8)
    data = value.to_bytes_()
    return Object.from_bytes_(value.prog_, type_, data[bit_offset // 8 :])


def _elements(value: Object, type_: Type, limits: Limits, room: _Room) -> Any:
    element = _underlying(type_.type)
    length = type_.length or 0
    if element.kind == TypeKind.INT and element.name in ("char", "signed char", "unsigned char") and length:
        data = b"".join((value[place].value_() & 0xFF).to_bytes(1, "little") for place in range(min(length, 256)))
        text = data.partition(b"\0")[0]
        if element.name == "char" or (text and text.isascii() and not data[len(text) :].strip(b"\0")):
            return text.decode(errors="replace")
    shown = [_plain(value[place], limits, room) for place in range(min(length, limits.elements)) if room.left > 0]
    return [*shown, f"{_MORE} {length - len(shown)} more"] if len(shown) < length else shown


def _underlying(type_: Type) -> Type:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_
