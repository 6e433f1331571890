# SPDX-License-Identifier: Apache-2.0
"""What keeps a sched_ext object from being loaded by a given kernel, found before any verifier sees it.

The kernel is asked by its BTF, never by its version. What BTF does not tell (which kfunc sleeps, what took whose place)
is in data/sched_api.toml. A kfunc that is weak and asked for by bpf_ksym_exists() is no problem: the branch that calls
it is not taken where the kernel lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kernloop.sched.check import kfuncs
from kernloop.sched.check.finding import Level
from kernloop.sched.check.scene import Scene
from kernloop.sched.check.trace import Trace
from kernloop.sched.obj.btf import Btf
from kernloop.sched.obj.kernel import KernelTypes
from kernloop.sched.obj.model import Core, Program, SchedObject, essential, plain

__all__ = ["Problem", "instead", "problems"]

# include/linux/license.h
_COMPATIBLE = frozenset({"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"})
_SLEEPING_HELPERS = frozenset({"bpf_copy_from_user", "bpf_copy_from_user_task"})


@dataclass(frozen=True)
class Problem:
    """`rule` is an id; "must": this kernel refuses the object, or the scheduler; "may": it loads, but lacks something.

    "unknown": the walk was given up, and what it has not seen may be so. `at` is the instruction in `program` that it
    is about, None for the program or the object as a whole.
    """

    rule: Literal[
        "api-kfunc-missing",
        "api-kfunc-changed",
        "api-ops-missing",
        "api-member-missing",
        "api-flag-unknown",
        "api-core-missing",
        "licence",
        "op-sleepable",
        "op-section",
        "op-unused",
        "sleepable-kfunc",
    ]
    level: Level
    program: str
    at: int | None
    why: str
    cure: str


def problems(scene: Scene) -> Iterator[Problem]:
    """All that is found; without a kernel only what no kernel takes.

    Of what a kernel lacks each thing is named once a program, where it is first used.
    """
    obj, kernel = scene.obj, scene.walker.world.kernel
    yield from _licence(obj)
    yield from _sections(obj)
    yield from _sleeping(scene)
    if kernel is None:
        return
    gone = list(_tables_gone(obj, kernel))
    yield from gone
    if not gone:
        yield from _kfuncs(scene, kernel)
        yield from _members(obj, kernel)
        yield from _patched(scene)


def _licence(obj: SchedObject) -> Iterator[Problem]:
    if obj.licence in _COMPATIBLE:
        return
    said = f'the licence is "{obj.licence}"' if obj.licence else 'there is no SEC("license")'
    yield Problem(
        "licence",
        "must",
        "",
        None,
        f"{said}, and struct_ops programs and kfuncs are for GPL compatible ones alone",
        'char _license[] SEC("license") = "GPL";',
    )


def _sections(obj: SchedObject) -> Iterator[Problem]:
    used: set[str] = set()
    for table in obj.ops:
        for op, name in table.members.items():
            used.add(name)
            program = obj.programs[name]
            kind = program.section.split("/")[0].removeprefix("?")
            if kind not in ("struct_ops", "struct_ops.s"):
                yield Problem(
                    "op-section",
                    "must",
                    name,
                    None,
                    f'.{op} is a program of SEC("{program.section}"): libbpf takes only struct_ops there',
                    f"BPF_STRUCT_OPS({name}, ...) puts it into the right section",
                )
            elif kind == "struct_ops.s" and not kfuncs.may_sleep(op):
                yield Problem(
                    "op-sleepable",
                    "must",
                    name,
                    None,
                    f"ops.{op}() must not sleep, and {name} is in struct_ops.s: the kernel refuses it (EINVAL)",
                    "BPF_STRUCT_OPS(), not BPF_STRUCT_OPS_SLEEPABLE(); only init, init_task, exit and the like sleep",
                )
    if not obj.ops:
        yield Problem("op-section", "must", "", None, "the object has no struct_ops table", "end with SCX_OPS_DEFINE()")
        return
    for program in obj.programs.values():
        if program.section.startswith("struct_ops") and program.name not in used:
            yield Problem(
                "op-unused",
                "may",
                program.name,
                None,
                f"no ops table names {program.name}: the kernel never calls it",
                "name it in SCX_OPS_DEFINE(), or remove it",
            )


# Calls that may sleep, from programs that may not.
def _sleeping(scene: Scene) -> Iterator[Problem]:
    sleeping = kfuncs.sleeping_kfuncs()
    for program, trace in _entries(scene):
        sites = {} if program.sleepable else {event.site: event for event in trace.events}
        for event in sites.values():
            call = event.insn.call
            if call is None or plain(call.name) not in (sleeping if call.kind == "kfunc" else _SLEEPING_HELPERS):
                continue
            what = f"ops.{program.op}()" if program.op else f'SEC("{program.section}")'
            yield Problem(
                "sleepable-kfunc",
                "must",
                event.program.name,
                event.insn.index,
                f"{plain(call.name)}() may sleep, and {program.name} ({what}) may not",
                f"call it in ops.init(), with BPF_STRUCT_OPS_SLEEPABLE({program.name})",
            )


# What a loader loads: programs of ops tables, and those with a section of their own.
def _entries(scene: Scene) -> list[tuple[Program, Trace]]:
    return [
        (program, scene.traces[program.name])
        for program in scene.obj.programs.values()
        if program.name in scene.traces
        and program.role != "subprog"
        and (program.role == "op" or not program.section.startswith(("struct_ops", "?")))
    ]


def _kfuncs(scene: Scene, kernel: KernelTypes) -> Iterator[Problem]:
    obj, world = scene.obj, scene.walker.world
    missing = {
        extern.name
        for extern in obj.externs.values()
        if extern.kind in ("kfunc", "ksym") and world.exists(extern.name) is False
    }
    for name in sorted(missing):
        if not obj.externs[name].weak:
            program, at = _first_use(obj, name)
            yield Problem(
                "api-kfunc-missing",
                "must",
                program,
                at,
                f"this kernel has no {essential(name)}(): libbpf refuses the object",
                instead(name, kernel),
            )
    weak = {name for name in missing if obj.externs[name].weak}
    if weak:
        yield from _unguarded(scene, kernel, weak)
    for extern in obj.externs.values():
        if extern.kind == "kfunc" and not extern.weak and obj.btf is not None and not world.compatible(extern.name):
            theirs = kernel.function(essential(extern.name))
            assert theirs is not None
            program, at = _first_use(obj, extern.name)
            yield Problem(
                "api-kfunc-changed",
                "must",
                program,
                at,
                f"{essential(extern.name)}() is {_prototype(kernel.btf, theirs.id)} in this kernel, and "
                f"{_prototype(obj.btf, extern.type_id)} in the object: libbpf refuses it",
                "build with the headers of the kernel that will run it",
            )


# Calls of kfuncs that the kernel lacks, which its branches do not leave out.
def _unguarded(scene: Scene, kernel: KernelTypes, weak: set[str]) -> Iterator[Problem]:
    sites = {
        number << 20 | insn.index: insn.call.name
        for number, program in enumerate(scene.obj.programs.values())
        for insn in program.insns
        if insn.call is not None and insn.call.kind == "kfunc" and insn.call.name in weak
    }
    for site, level in _come_to(scene, sites):
        name, sure = sites[site], level == "must"
        guard = "bpf_ksym_exists() does not guard the call" if sure else "whether bpf_ksym_exists() guards it is open"
        yield Problem(
            "api-kfunc-missing",
            level,
            scene.walker.program(site).name,
            site & 0xFFFFF,
            f"this kernel has no {essential(name)}(), and {guard}",
            instead(name, kernel),
        )


# Those of `sites` that any entry comes to ("must"), or may come to, where the walk was given up ("unknown"). What is
# the same in one function is told once.
def _come_to(scene: Scene, sites: Mapping[int, object]) -> Iterator[tuple[int, Level]]:
    said: set[tuple[int, object]] = set()
    open_ended: dict[int, None] = {}
    for entry, trace in _entries(scene):
        for site, what in sites.items():
            if site in trace.sites and (site >> 20, what) not in said:
                said.add((site >> 20, what))
                yield site, "must"
        if not trace.complete:
            below = _called(scene.obj, entry.name)
            open_ended |= dict.fromkeys(site for site in sites if scene.walker.program(site).name in below)
    for site in open_ended:
        what = sites[site]
        if (site >> 20, what) in said:
            continue
        alone = scene.alone(scene.walker.program(site).name)
        if site in alone.sites or not alone.complete:
            said.add((site >> 20, what))
            yield site, "unknown"


# The functions that `program` can call by any path, callbacks and itself included, on any kernel.
def _called(obj: SchedObject, program: str) -> frozenset[str]:
    found, pending = {program}, [program]
    while pending:
        for insn in obj.programs[pending.pop()].insns:
            name = ""
            if insn.call is not None and insn.call.kind == "subprog":
                name = insn.call.name
            elif insn.ref is not None and insn.ref.kind == "subprog":
                name = insn.ref.name
            if name and name not in found:
                found.add(name)
                pending.append(name)
    return frozenset(found)


def _first_use(obj: SchedObject, name: str) -> tuple[str, int | None]:
    for program in obj.programs.values():
        for insn in program.insns:
            if (insn.call and insn.call.name == name) or (insn.ref and insn.ref.name == name):
                return program.name, insn.index
    return "", None


def instead(name: str, kernel: KernelTypes) -> str:
    """What to write for a kfunc that the kernel lacks: its heir, or its ancestor."""
    asked = plain(name)
    for row in kfuncs.heirs():
        if row.old == asked and (kernel.has(row.new) or not row.new.startswith("scx_")):
            return f"{row.new}() does it ({row.since} and later)" + (f": {row.note}" if row.note else "")
        if row.new == asked and kernel.has(row.old):
            return (
                f"before {row.since} it is {row.old}(); scx/compat.bpf.h of {row.since} and later chooses by what the "
                "kernel has"
            )
    known = kfuncs.releases_with(name)
    if known:
        return f"linux {', '.join(known)} has it: declare it __ksym __weak and ask bpf_ksym_exists() before the call"
    return "declare it __ksym __weak and ask bpf_ksym_exists() before the call"


# Without the type of the table nothing else is worth saying.
def _tables_gone(obj: SchedObject, kernel: KernelTypes) -> Iterator[Problem]:
    for table in obj.ops:
        if kernel.members(table.type_name) is None:
            has = kernel.members("sched_ext_ops") is not None
            yield Problem(
                "api-ops-missing",
                "must",
                "",
                None,
                f"this kernel has no struct {table.type_name}" + ("" if has else ": it is built without sched_ext"),
                "use struct sched_ext_ops, or a kernel that has it (cid ops: 7.2 and later)"
                if has
                else "a kernel with CONFIG_SCHED_CLASS_EXT",
            )


def _members(obj: SchedObject, kernel: KernelTypes) -> Iterator[Problem]:
    for table in obj.ops:
        known = kernel.members(table.type_name) or ()
        for member in [*table.members, *table.scalars]:
            if essential(member) not in known:
                yield Problem(
                    "api-member-missing",
                    "may",
                    table.members.get(member, ""),
                    None,
                    f"this kernel has no ops.{member}: the loader leaves it out, or libbpf refuses the object",
                    "let the loader clear it (SCX_OPS_OPEN does for those it knows), and do without",
                )
        flags = table.scalars.get("flags", 0)
        every = kernel.constants.get("SCX_OPS_ALL_FLAGS")
        if isinstance(flags, int) and every is not None and flags & ~every:
            yield Problem(
                "api-flag-unknown",
                "must",
                "",
                None,
                f"ops.flags is {flags:#x}, of which this kernel does not know {flags & ~every:#x}: EINVAL on attach",
                "take the flag from the kernel's BTF (__COMPAT_ENUM_OR_ZERO), or leave it out",
            )


# Members and constants that CO-RE asks the kernel for, in vain, on a path that this kernel goes.
def _patched(scene: Scene) -> Iterator[Problem]:
    world = scene.walker.world
    wanting = {
        number << 20 | insn.index: insn.core
        for number, program in enumerate(scene.obj.programs.values())
        for insn in program.insns
        if insn.core is not None and not insn.core.kind.endswith(("_exists", "_matches")) and world.missing(insn.core)
    }
    for site, level in _come_to(scene, wanting):
        core = wanting[site]
        yield Problem("api-core-missing", level, scene.walker.program(site).name, site & 0xFFFFF, *_patch_text(core))


def _patch_text(core: Core) -> tuple[str, str]:
    ask = "bpf_core_enum_value_exists" if core.kind.startswith("enumval") else "bpf_core_field_exists"
    return (
        f"this kernel has no {core.name}: libbpf makes the instruction one that the verifier refuses",
        f"ask {ask}() first",
    )


def _prototype(btf: Btf, type_id: int) -> str:
    proto = btf.resolve(type_id)
    return f"{btf.spell(proto.type_id)} ({', '.join(btf.spell(member.type_id) for member in proto.members)})"
