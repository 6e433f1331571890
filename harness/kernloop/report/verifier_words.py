# SPDX-License-Identifier: Apache-2.0
"""A register's state, as kernel/bpf/log.c prints it, in words.

>>> in_words("map_value_or_null(id=1,map=counts,ks=4,vs=64)")
'NULL or a value of map counts (64 bytes)'
>>> in_words("scalar(smin=smin32=0,smax=umax=smax32=umax32=31,var_off=(0x0; 0x1f))")
'a number from 0 to 31'
"""

from __future__ import annotations

import re

__all__ = ["in_words", "limits"]

_VALUE = re.compile(r"(?P<type>[A-Za-z_]+)(?:\[\d+\])?(?P<at>-?\d+)?(?:\((?P<fields>.*)\))?$")
_NUMBER = re.compile(r"P?(?:inv)?(?P<number>-?\d+|0x[0-9a-f]+)$")
_STRUCT = re.compile(r"(?P<flags>(?:[a-z]+_)*?)ptr_(?P<null>or_null_)?(?P<name>\w+)")
_PLAIN = {
    "ctx": "the program's context",
    "fp": "an address on the stack",
    "pkt": "packet data",
    "pkt_end": "the packet's end",
    "pkt_meta": "packet metadata",
    "map_ptr": "a map",
    "map_key": "a map's key",
    "sock": "a socket",
    "arena": "an arena address",
    "func": "a function",
    "dynptr_ptr": "a dynptr",
    "flow_keys": "flow keys",
    "buf": "a buffer",
    "mem": "memory",
    "ringbuf_mem": "a ring buffer record",
}
_TOP, _HUGE = 1 << 63, 1 << 48


def in_words(value: str) -> str:
    """'' for a value in a form that is not known."""
    # `P` marks a number as precise; kernels before 5.18 write `invP` and `umax_value=`.
    value = value.removeprefix("P").replace("_value=", "=")
    if number := _NUMBER.match(value):
        return f"the number {number['number']}"
    match = _VALUE.match(value)
    if not match:
        return ""
    kind, fields = match["type"], _fields(match["fields"] or "")
    if kind in ("scalar", "inv", "invP"):
        return _range(fields)
    if struct := _STRUCT.fullmatch(kind):
        flags = [flag for flag in struct["flags"].split("_") if flag]
        what = (
            f"{'an' if flags[:1] == ['untrusted'] else 'a'} {' '.join([*flags, 'pointer'])} to struct {struct['name']}"
        )
        return f"NULL or {what}" if struct["null"] else what
    null = kind.endswith("_or_null")
    kind = kind.removesuffix("_or_null")
    readonly = kind.startswith("rdonly_")
    kind = kind.removeprefix("rdonly_")
    if kind == "map_value":
        what = f"a value of map {fields.get('map', '?')} ({fields.get('vs', '?')} bytes)"
    elif kind in _PLAIN:
        what = _PLAIN[kind] + (f" ({fields['sz']} bytes)" if fields.get("sz", "0") != "0" else "")
        if kind == "pkt":
            what += f", {fields.get('r', '0')} bytes of it checked"
    else:
        return ""
    what = f"read-only {what.removeprefix('a ')}" if readonly else what
    offset = _offset(kind, match["at"], fields)
    return ("NULL or " if null else "") + what + offset


def limits(value: str) -> tuple[int | None, int | None]:
    """The smallest and the largest number that a register can be, signed; None where that is unknown."""
    if number := _NUMBER.match(value):
        constant = int(number["number"], 0)
        return constant, constant
    match = _VALUE.match(value.removeprefix("P"))
    fields = _fields(match["fields"] or "") if match else {}
    return _bounds(fields)


def _offset(kind: str, at: str | None, fields: dict[str, str]) -> str:
    low, high = _bounds(fields)
    fixed = fields.get("off") or fields.get("imm") or at
    if high is not None and low is not None and low != high:
        return f" at offset {low} to {high}" + (f" plus {fixed}" if fixed else "")
    if "var_off" in fields or low is not None or high is not None:
        return " at an offset that is not known"
    return f" at offset {fixed}" if fixed and (kind != "fp" or fixed != "0") else ""


def _range(fields: dict[str, str]) -> str:
    low, high = _bounds(fields)
    if low is None and high is None:
        return "a number of which nothing is known"
    if low is None:
        return f"a number that may be negative, at most {high}"
    if high is None:
        return f"a number of at least {low}, without an upper bound"
    return f"the number {low}" if low == high else f"a number from {low} to {high}"


# `smin=smin32=0,smax=umax=31,var_off=(0x0; 0x1f)`: a name that shares a value stands before it.
def _fields(text: str) -> dict[str, str]:
    known: dict[str, str] = {}
    for part in re.split(r",(?![^(]*\))", text):
        *names, value = part.split("=")
        known.update(dict.fromkeys(names, value))
    return known


# Unsigned bounds bind the signed value as well, as long as they lie below its sign; what is at its widest is left out.
def _bounds(fields: dict[str, str]) -> tuple[int | None, int | None]:
    smin, smax, umin, umax = (_number(fields.get(name)) for name in ("smin", "smax", "umin", "umax"))
    unsigned = umax is not None and umax >= 0
    low = smin if smin is not None else (umin or 0) if unsigned else None
    high = smax if smax is not None else umax if unsigned else None
    # A 64-bit number that was shifted: no bound that anybody set.
    return None if low is not None and low < -_HUGE else low, None if high is not None and high > _HUGE else high


def _number(text: str | None) -> int | None:
    try:
        number = int(text, 0) if text and len(text) < 40 else None
    except ValueError:
        return None
    return number - 2 * _TOP if number is not None and number >= _TOP else number
