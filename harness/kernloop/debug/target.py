# SPDX-License-Identifier: Apache-2.0
"""drgn on the memory of a guest: no agent inside, nothing for the guest to do; it may be stuck, or stand still.

>>> with open_live(client.find("a")) as prog:                      # doctest: +SKIP
...     print(prog["init_task"].comm)
(char [16])"swapper/0"

Symbols are the kernel's own, from kallsyms in its memory, so they are right with KASLR. Types are its BTF, from its
memory as well: no debugging information is needed, and none of another build can be taken by mistake. A kernel that
was built here has its vmlinux, whose build-id must be the one in the guest's memory: then symbols and types are that's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drgn import Architecture, FaultError, MissingDebugInfoError, Platform, Program, ProgramFlags, Symbol
from drgn.helpers.linux.cpumask import for_each_online_cpu

from kernloop.debug import physical
from kernloop.debug.btf_types import BtfTypes
from kernloop.debug.code import code_of, forget_code
from kernloop.debug.finders import ObjectFinder, SymbolFinder
from kernloop.debug.registers import Registers, of_monitor, of_vmcore
from kernloop.debug.walk import per_cpu_variable
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import debugfiles
from kernloop.sched.obj.btf import Btf, BtfError
from kernloop.vm import kallsyms
from kernloop.vm.answers import GuestMemory
from kernloop.vm.client import VM
from kernloop.vm.kallsyms import Symbols

__all__ = ["Dwarf", "Target", "about", "look_again", "of_memory", "open_core", "open_live"]

_KEY = "kernloop.target"
_RELEASE = re.compile(rb"^OSRELEASE=(.*)$", re.MULTILINE)
_BUILD_ID = re.compile(rb"^BUILD-ID=([0-9a-f]+)$", re.MULTILINE)
_MOST_BTF = 64 << 20
_BTF_SYMBOLS = ("__start_BTF", "__stop_BTF")
# Without KASLR of memory regions (arch/x86/include/asm/page_64_types.h).
_PAGE_OFFSET = 0xFFFF888000000000


@dataclass(frozen=True)
class Target:
    """What a Program reads: `state` is the VM's when it was opened, "dump" for a vmcore; `held` whether it stands still
    for us, `still` whether it does for whatever reason; `vmlinux` has the types, None where BTF has them; `cpus` are
    the registers of each when it was opened."""

    name: str
    release: str
    build_id: str
    state: str
    held: bool
    vmlinux: Path | None
    cpus: tuple[Registers, ...] = ()

    @property
    def still(self) -> bool:
        return self.held or self.state != "running"


@dataclass(frozen=True)
class Dwarf:
    """The debugging information to use: `vmlinux`, or what is known for this build; `fetch` Debian's if need be."""

    vmlinux: Path | None = None
    fetch: bool = False


def about(prog: Program) -> Target:
    """What `open_live` knows of its Program."""
    found = prog.cache[_KEY]
    assert isinstance(found, Target)
    return found


@contextlib.contextmanager
def open_live(
    vm: VM, *, hold: bool = False, files: Sequence[Path] = (), dwarf: Dwarf | None = None
) -> Iterator[Program]:
    """The guest's memory for the block. It runs on meanwhile, so what is read at two moments need not fit together;
    with `hold` it stands still until the block ends, whatever becomes of us. `files` are modules with symbols of their
    own, as they were loaded: what a kernel built here lacks CONFIG_KALLSYMS_ALL for. `dwarf`: types by that, not
    by BTF.

    Raises HarnessError.
    """
    with vm.memory(hold=hold) as memory:
        yield of_memory(vm, memory, files, dwarf)


def of_memory(vm: VM, memory: GuestMemory, files: Sequence[Path] = (), dwarf: Dwarf | None = None) -> Program:
    """What `open_live` gives, for as long as `memory` is open. Raises HarnessError."""
    prog = Program(Platform(Architecture.X86_64))
    vmcoreinfo = memory.vmcoreinfo or physical.find_vmcoreinfo(memory)
    physical.add_memory(prog, memory)
    prog.set_linux_kernel_custom(vmcoreinfo, is_live=not memory.held)
    physical.add_image(prog, memory, vmcoreinfo)
    release, build_id = (_word(pattern, vmcoreinfo) for pattern in (_RELEASE, _BUILD_ID))
    built = _typed(prog, vm.run, vmcoreinfo, release, build_id, files, dwarf)
    physical.add_direct_map(prog, memory, _direct_map(prog))
    _with_modules(prog)
    prog.cache[_KEY] = Target(
        vm.name, release, build_id, memory.state, memory.held, built, of_monitor(memory.registers)
    )
    return prog


def look_again(prog: Program, memory: GuestMemory) -> None:
    """Make `prog` know a guest that has run on since: its registers and state are those of `memory`, modules anew."""
    prog.cache[_KEY] = replace(about(prog), state=memory.state, held=memory.held, cpus=of_monitor(memory.registers))
    forget_code(prog)


def open_core(path: Path, *, files: Sequence[Path] = (), dwarf: Dwarf | None = None) -> Program:
    """A vmcore, by its own BTF and kallsyms; one in a run directory whose kernel was built here, by its vmlinux if that
    has the dump's build-id. `files` and `dwarf` are as for `open_live`.

    Raises UsageError for what is no dump, HarnessError for one that lacks what is needed.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="kernloop vm dump NAME makes one")
    prog = Program()
    try:
        prog.set_core_dump(path)
        vmcoreinfo = prog["VMCOREINFO"].string_()
    except Exception as error:
        # What drgn has no class for, such as a dump that was cut, it raises as Exception itself.
        if type(error) is not Exception and not isinstance(error, (ValueError, LookupError, OSError, FaultError)):
            raise
        raise UsageError(f"{path} is no dump of a kernel that can be read: {error}", hint="kernloop vm dump") from None
    release, build_id = (_word(pattern, vmcoreinfo) for pattern in (_RELEASE, _BUILD_ID))
    built = _typed(prog, path.parent, vmcoreinfo, release, build_id, files, dwarf)
    _with_modules(prog)
    state = "running" if prog.flags & ProgramFlags.IS_LIVE else "dump"  # /proc/kcore is the former
    prog.cache[_KEY] = Target(path.name, release, build_id, state, False, built, _placed(prog, of_vmcore(path)))
    return prog


# kdump has notes of the CPUs that it reached, in their order: when that were not all, tasks tell which.
def _placed(prog: Program, found: tuple[Registers, ...]) -> tuple[Registers, ...]:
    online = list(for_each_online_cpu(prog))
    if not found or found[0].pid is None:
        return found
    if len(found) == len(online):
        return tuple(replace(one, cpu=cpu) for one, cpu in zip(found, online, strict=True))
    runs = {per_cpu_variable(prog["runqueues"], cpu).curr.pid.value_(): cpu for cpu in online}
    # The idle task of each has the pid 0.
    return tuple(replace(one, cpu=runs[one.pid]) for one in found if one.pid and one.pid in runs)


def _with_modules(prog: Program) -> None:
    def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        return code_of(prog).symbols(prog, name, address, one)

    prog.register_symbol_finder("kernloop-modules", find, enable_index=1)


# The file that has the types, None when BTF does.
def _typed(
    prog: Program,
    folder: Path,
    vmcoreinfo: bytes,
    release: str,
    build_id: str,
    files: Sequence[Path],
    dwarf: Dwarf | None,
) -> Path | None:
    if dwarf is not None:
        from kernloop.debug.tracers.crash import Core, vmlinux_of

        chosen = vmlinux_of(Core(folder, release, build_id), dwarf.vmlinux, fetch=dwarf.fetch)
        if not _with_dwarf(prog, chosen, files):
            raise UsageError(f"{chosen} has no debugging information", hint="without --vmlinux BTF has the types")
        return chosen
    built = debugfiles.vmlinux(folder, build_id)
    if built is None or not _with_dwarf(prog, built, files):
        _with_btf(prog, vmcoreinfo)
        return None
    return built


# The kernel was built here: its vmlinux knows all of it.
def _with_dwarf(prog: Program, vmlinux: Path, files: Sequence[Path]) -> bool:
    try:
        prog.load_debug_info([vmlinux, *files])
        prog.type("struct task_struct")
    except (MissingDebugInfoError, LookupError):
        return False
    return True


def _with_btf(prog: Program, vmcoreinfo: bytes) -> None:
    symbols = _symbols(prog, vmcoreinfo)
    prog.register_symbol_finder("kernloop", SymbolFinder(symbols), enable_index=0)
    types = BtfTypes(prog, _btf(prog, symbols))
    prog.register_type_finder("kernloop", types, enable_index=0)
    prog.register_object_finder("kernloop", ObjectFinder(symbols, types), enable_index=0)


def _word(pattern: re.Pattern[bytes], text: bytes) -> str:
    found = pattern.search(text)
    return found[1].decode(errors="replace") if found else ""


def _symbols(prog: Program, vmcoreinfo: bytes) -> Symbols:
    where = kallsyms.tables(vmcoreinfo)
    found = kallsyms.load(where, prog.read) if where else None
    if found is None:
        raise HarnessError(
            "this kernel does not say where its symbols are", hint="it needs CONFIG_KALLSYMS, and to be 6.0 or newer"
        )
    return found


def _btf(prog: Program, symbols: Symbols) -> Btf:
    ends = [next((one.address for one in symbols.named(name)), 0) for name in _BTF_SYMBOLS]
    if not all(ends) or not 0 < ends[1] - ends[0] < _MOST_BTF:
        raise HarnessError(
            "this kernel has no BTF, or no symbols of data",
            hint="it needs CONFIG_DEBUG_INFO_BTF and CONFIG_KALLSYMS_ALL",
        )
    try:
        return Btf(prog.read(ends[0], ends[1] - ends[0]))
    except BtfError as error:
        raise HarnessError(f"the guest's BTF cannot be read: {error}", hint="has it overwritten its memory?") from None


def _direct_map(prog: Program) -> int:
    try:
        return int(prog.read_u64(prog.symbol("page_offset_base").address))
    except LookupError:
        return _PAGE_OFFSET
