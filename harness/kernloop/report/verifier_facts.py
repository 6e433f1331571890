# SPDX-License-Identifier: Apache-2.0
"""The values for the texts of verifier_causes.toml, out of one log: which register, what is known of it, where from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .verifier_causes import releases
from .verifier_log import Log, Source, insn_of, source_of
from .verifier_trace import Step, Trace, follow, last_insn, path_back, source_before
from .verifier_words import in_words, limits

__all__ = ["Facts", "clip", "facts", "fill"]

_CALL = re.compile(r"\([0-9a-f]{2}\) call (?P<name>[A-Za-z_]\w*)#")
_ADDED = re.compile(r"\([0-9a-f]{2}\) [rw]\d+ [-+]= [rw](?P<src>\d+)$")
_REGISTERS = re.compile(r"\b[rw](\d+)\b")
_ACCESS = re.compile(r"\*\([us]\d+ \*\)\(r(\d+) [-+]")
# Arguments are 8 bytes each (tools/lib/bpf/bpf_tracing.h, BPF_PROG); BPF_STRUCT_OPS is sched_ext's name for it.
_ARGUMENT = re.compile(r"= \*\(u\d+ \*\)\(r(\d+) \+(\d{1,3})\)$")
_PARAMETERS = re.compile(r"BPF_(?:PROG|STRUCT_OPS\w*)\((.*)\)")
_LAST_WORD = re.compile(r"(?<!\w)(\w+)\s*$")
_ASSIGNS = re.compile(r"(?:^|[\s*(])(?P<var>[A-Za-z_]\w*)\s*=(?!=)")
_GOT = re.compile(r"smin=(-?\d+) smax=(-?\d+)")
_PART = re.compile(r"\[([^\[\]]+)\]")
_NAME = re.compile(r"\{(\w+)\}")
_MOST_TEXT, _MOST_VALUE, _MOST_REGISTERS, _MOST_COUNTED = 120, 90, 4, 10_000
# What a template says only when the message has it; it is no text of its own.
_FLAGS = frozenset({"missing", "unmatched", "unreachable", "out", "global", "null", "jumps", "insns", "zero"})


@dataclass(frozen=True)
class Facts:
    """`values` for the templates, `registers` as the verifier prints them, the few that matter."""

    values: dict[str, str]
    registers: tuple[str, ...]
    source: Source | None
    insn: str


def facts(log: Log, end: int, groups: Mapping[str, str], alloc: int | None = None, hot: bool = False) -> Facts:
    """What the log says of the failure whose message stands at line `end`; `alloc` took what is not given back; `hot`
    asks for the source line that took most work."""
    lines = log.lines
    failing = last_insn(lines, end)
    at = failing.at if failing else end
    values = dict(groups)
    register = values.get("reg") or _argument(values) or _base(failing)
    if register:
        values["reg"] = register
    call = _CALL.match(failing.insn.text) if failing else None
    if call:
        values["call"] = call["name"]
    place = source_before(lines, end - 1)
    if place and place.place:
        values["place"] = place.place
    if failing:
        values["at_insn"] = str(failing.insn.number)
    traces = _traces(log, at, failing, register)
    if register and (trace := traces.get(register)):
        values |= _of_register(lines, trace, values)
    if failing and (added := _added(failing, traces.get(register or ""))):
        index = follow(lines, added[0], added[1])
        traces[added[1]] = index
        values |= _of_index(lines, index)
        if added[0] == failing.at and (target := in_words(next(iter(traces.values())).value)):
            values["target"] = target
    values |= _sizes(values)
    if hot and (busiest := _busiest(lines)):
        values["hot"] = busiest
    source, insn = place, f"{failing.insn.number}: {failing.insn.text}" if failing else ""
    if alloc is not None and (step := _taken(lines, end, alloc)):
        values |= {"exit_place": values["place"]} if "place" in values else {}
        source, insn = source_before(lines, step.at), f"{step.insn.number}: {step.insn.text}"
        values |= {"line": source.place} if source and source.place else {}
        if made := _CALL.match(step.insn.text):
            values["made"] = made["name"]
            values |= {"release": found} if (found := releases(made["name"])) else {}
    shown = [f"{trace.register}={clip(trace.value, _MOST_VALUE)}" for trace in traces.values() if trace.value]
    return Facts(values, tuple(shown[:_MOST_REGISTERS]), source, insn)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with `values`: see verifier_causes.toml for its form."""

    def known(part: str) -> str | None:
        names = _NAME.findall(part)
        if any(not values.get(name) for name in names):
            return None
        return _NAME.sub(lambda match: "" if match[1] in _FLAGS else values[match[1]], part)

    def choice(match: re.Match[str]) -> str:
        return next((text for part in match[1].split("|") if (text := known(part)) is not None), "")

    # A value may have brackets of its own, so the parts are chosen before any of them is filled in.
    out, last = [], 0
    for match in _PART.finditer(template):
        out += [_NAME.sub(lambda name: values.get(name[1], "?"), template[last : match.start()]), choice(match)]
        last = match.end()
    return "".join([*out, _NAME.sub(lambda name: values.get(name[1], "?"), template[last:])])


def clip(text: str, most: int) -> str:
    """`text`, not longer than `most`."""
    return text if len(text) <= most else text[: most - 3] + "..."


# `arg0` is R1. The message's own arg1 counts from 1.
def _argument(values: dict[str, str]) -> str:
    if (number := values.get("arg")) and number.isdecimal() and len(number) < 3:
        return f"R{int(number) + 1}"
    return f"R{number}" if (number := values.get("arg1")) and len(number) < 3 else ""


# The register through which an instruction accesses memory.
def _base(failing: Step | None) -> str:
    match = _ACCESS.search(failing.insn.text) if failing else None
    return f"R{match[1]}" if match and match[1] != "10" else ""


# The register of the message first, then those of the instruction.
def _traces(log: Log, at: int, failing: Step | None, register: str) -> dict[str, Trace]:
    text = failing.insn.text if failing else ""
    named = [register] if register else []
    if not _CALL.match(text):
        named += [f"R{number}" for number in _REGISTERS.findall(text) if number != "10"]
    return {name: follow(log.lines, at, name) for name in dict.fromkeys(named)}


def _of_register(lines: tuple[str, ...], trace: Trace, groups: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    words = in_words(trace.value)
    origin = trace.origin
    where = source_before(lines, origin.at) if origin else None
    scalar = groups.get("kind", "scalar") in ("scalar", "inv")
    if origin and trace.call and not trace.returned:
        return {"clobber": f"the call of {trace.call}(){_at(where)} clears R1 to R5"}
    if lost := _lost(lines, trace) if scalar else "":
        values["clobber"] = lost
    elif words:
        values |= {"words": words} | ({"null": "yes"} if limits(trace.value) == (0, 0) else {})
    if origin is None and trace.value.startswith(("mem_or_null", "rdonly_mem_or_null")):
        values["global"] = "yes"
    if origin:
        values |= _where(where) | {"from_insn": str(origin.insn.number)}
        if trace.call and trace.returned:
            values |= {"made": trace.call, "origin": f"{trace.call}(){_at(where)} returned it"}
        elif where and (number := _hook_argument(lines, origin)) is not None:
            values["origin"] = f"it is an argument of the hook, {_shown(where)}"
            names = _PARAMETERS.search(where.text)
            parameters = names[1].split(",")[1:] if names else []
            if found := _LAST_WORD.search("".join(parameters[number : number + 1])):
                values["var"] = found[1]
        elif where:
            values["origin"] = f"it comes from {_shown(where)}"
    return values


# The number of the argument that a load from the context of a hook took.
def _hook_argument(lines: tuple[str, ...], origin: Step) -> int | None:
    load = _ARGUMENT.search(origin.insn.text)
    if load is None or not follow(lines, origin.at, f"R{load[1]}").value.startswith("ctx"):
        return None
    return int(load[2]) // 8


# A packet pointer that a helper made invalid: its last known state is still that of a pointer.
def _lost(lines: tuple[str, ...], trace: Trace) -> str:
    if not trace.value.startswith(("pkt", "sock", "tcp_sock", "dynptr", "mem", "map_value")):
        return ""
    for at, line in path_back(lines, len(lines)):
        insn = insn_of(line)
        if insn and (call := _CALL.match(insn.text)):
            return f"the call of {call['name']}(){_at(source_before(lines, at))} made the pointer invalid"
    return ""


def _of_index(lines: tuple[str, ...], index: Trace) -> dict[str, str]:
    values = {"index": index.register}
    if words := in_words(index.value):
        values["range"] = words
    where = source_before(lines, index.origin.at) if index.origin else None
    if index.call and index.returned:
        values["index_origin"] = f"{index.call}(){_at(where)} returned it"
    elif where:
        values["index_origin"] = f"it comes from {_shown(where)}"
    return values


# The register that was added to the pointer, and the line of the log at which that was done.
def _added(failing: Step, trace: Trace | None) -> tuple[int, str] | None:
    for step in (failing, trace.added if trace else None):
        if step and (match := _ADDED.match(step.insn.text)):
            return step.at, f"R{match['src']}"
    return None


# The line of the source that stands most often in the log's last part.
def _busiest(lines: tuple[str, ...]) -> str:
    shown = Counter(line for line in lines[-_MOST_COUNTED:] if line.startswith("; "))
    source = source_of(shown.most_common(1)[0][0]) if shown else None
    return source.place if source else ""


def _sizes(values: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    off, _ = limits(values.get("off", ""))
    size, _ = limits(values.get("size", ""))
    if off is not None and size is not None:
        found |= {"last": str(off + size - 1), "last_plus": str(off + size)}
    if got := _GOT.fullmatch(values.get("got", "")):
        found["got"] = got[1] if got[1] == got[2] else f"from {got[1]} to {got[2]}"
    if len(values.get("want", "")) > _MOST_VALUE:
        found["want"] = clip(values["want"], _MOST_VALUE)
    return found


def _taken(lines: tuple[str, ...], end: int, number: int) -> Step | None:
    for at, line in path_back(lines, end):
        if line.startswith(f"{number}: (") and (insn := insn_of(line)):
            return Step(at, insn)
    return None


def _where(source: Source | None) -> dict[str, str]:
    if source is None:
        return {}
    assigned = _ASSIGNS.search(source.text)
    return ({"line": source.place} if source.place else {}) | ({"var": assigned["var"]} if assigned else {})


def _at(source: Source | None) -> str:
    return f" at {source.place}" if source and source.place else ""


def _shown(source: Source) -> str:
    text = f"`{clip(source.text, _MOST_TEXT)}`"
    return f"{source.place}, {text}" if source.place else text
