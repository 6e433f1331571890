# SPDX-License-Identifier: Apache-2.0
"""One module of a tree, or of a folder outside it, built alone: the .ko files in the order of loading.

When only sources of modules changed since the last build, they are made by its saved commands (kernel.savedcmd), a
second's work. Otherwise make does it: for a module of the tree the whole build, since the kernel that the module is
loaded into must be that of the tree. A folder outside the tree is built into the cache: it stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.host import progress
from kernloop.kernel import changes, config, depend, savedcmd, toolchain
from kernloop.kernel.build import BuildFolder, BuildRequest, Built, build, diagnose, identity, opened
from kernloop.kernel.kept import kept, with_modules
from kernloop.kernel.kernel import Kernel
from kernloop.kernel.make import Made, make, repair, under_way, unfinished
from kernloop.kernel.tree import SourceTree, building, open_tree
from kernloop.report.compiler import Diagnostic

__all__ = ["BuiltModules", "Module", "build_for", "build_modules", "read_module"]

_SECONDS = 600.0


@dataclass(frozen=True)
class Module:
    """A .ko file. `name` as the kernel has it (underscores), `depends` modules that must be there before."""

    name: str
    path: Path
    vermagic: str
    depends: tuple[str, ...]
    build_id: str


@dataclass(frozen=True)
class BuiltModules:
    """`modules` in the order of loading, with those that `wanted` (names) need. `quick`: without make."""

    kernel: Kernel
    modules: tuple[Module, ...]
    wanted: tuple[str, ...]
    steps: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]
    new: tuple[Diagnostic, ...]
    quick: bool
    seconds: float


def build_modules(request: BuildRequest, what: str) -> BuiltModules:
    """Build `what`: a folder or module of the tree (`fs/ext4`, `drivers/block/loop`), or a folder outside it.

    Raises BuildFailed, SubjectError when the configuration makes no module of it, UsageError, HarnessError.
    """
    begun = time.monotonic()
    outside, tree = Path(what).expanduser(), request.tree.expanduser().resolve()
    # A path from the root names a folder of this machine, which may be one of the tree.
    inside = (tree / outside).resolve() if outside.is_absolute() else tree / what
    known = inside.is_dir() or inside.with_suffix(".c").exists() or what.endswith(".ko")
    if known and tree in inside.parents:
        found = _in_tree(request, re.sub(r"\.ko$", "", str(inside.relative_to(tree))))
    elif outside.is_dir():
        found = _with_kernel(request, outside.resolve())
    else:
        raise UsageError(f"{what} is no folder of the tree, and none of this machine", hint="as in --module fs/ext4")
    return replace(found, seconds=round(time.monotonic() - begun, 3))


def build_for(kernel: Kernel, source: Path, *, jobs: int | None = None) -> BuiltModules:
    """Build the folder `source`, which lies outside the tree, for a kernel that was built here, as it is.

    Raises UsageError when it was not, or when its tree was edited since; BuildFailed, HarnessError.
    """
    begun = time.monotonic()
    with _as_left(kernel) as folder:
        found = _outside(folder, kernel, source.resolve(), jobs or len(os.sched_getaffinity(0)), _SECONDS)
    return replace(found, seconds=round(time.monotonic() - begun, 3))


def read_module(path: Path) -> Module:
    """What the .modinfo of a module says. Raises SubjectError for what is none."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    from kernloop.kernel.notes import build_id_of_notes

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            info, notes = (elf.get_section_by_name(name) for name in (".modinfo", ".note.gnu.build-id"))
            words = info.data().split(b"\0") if info else []
            build_id = build_id_of_notes(notes.data()) if notes else ""
    except (OSError, ELFError) as error:
        raise SubjectError(f"{path} is no module: {error}", hint="give the .ko of a build") from None
    said = dict(word.decode(errors="replace").partition("=")[::2] for word in words)
    name = said.get("name", path.name.partition(".ko")[0])
    depends = tuple(need.replace("-", "_") for need in said.get("depends", "").split(",") if need)
    return Module(name.replace("-", "_"), path, said.get("vermagic", ""), depends, build_id)


def _in_tree(request: BuildRequest, what: str) -> BuiltModules:
    with opened(request) as folder:
        found = _quickly(request, folder)
    if found is None:
        found = _of_build(build(request))
        savedcmd.environment(folder.make, folder.path)  # now, so that the next edit need not wait for it
    made = _made(folder.path)
    wanted = [path for path in made if path == what or path.startswith(f"{what}/")]
    if not wanted:
        raise _none(folder, what)
    return _with_modules(found, folder.path, [folder.path / f"{path}.ko" for path in wanted])


# Without make; None when make must do it.
def _quickly(request: BuildRequest, folder: BuildFolder) -> BuiltModules | None:
    configured = config.configure(folder.path, folder.make, request.wish)
    kernel = kept(folder.path, folder.tree.path)
    tree, recipe = folder.tree.path, identity(folder)
    before = changes.survey(tree, folder.path)
    found = changes.changed(folder.path, tree, recipe, before)
    if configured or kernel is None or not found.built:
        return None
    if found.nothing:
        return BuiltModules(kernel, (), (), (), (), (), True, 0)
    made = _again(folder, folder, found, _jobs(request))
    if made is None:
        return None
    diagnostics, new = diagnose(folder, made)
    changes.remember(folder.path, tree, before, recipe)
    kernel = with_modules(folder.path, tree, kernel, [step.removeprefix("LD ") for step in made.steps])
    return BuiltModules(kernel, (), (), made.steps, diagnostics, new, True, 0)


# The kernel first, as the tree is now; then the folder against it.
def _with_kernel(request: BuildRequest, source: Path) -> BuiltModules:
    with opened(request) as folder:
        tree = folder.tree.path
        configured = config.configure(folder.path, folder.make, request.wish)
        current = changes.nothing_changed(folder.path, tree, identity(folder)) and kept(folder.path, tree) is not None
    if configured or not current:
        build(request)
    with opened(request) as folder:
        kernel = kept(folder.path, folder.tree.path)
        if kernel is None:
            raise HarnessError("the kernel was removed while its module was built", hint="do it again")
        return _outside(folder, kernel, source, _jobs(request), request.seconds)


def _outside(folder: BuildFolder, kernel: Kernel, source: Path, jobs: int, seconds: float) -> BuiltModules:
    if not any((source / name).exists() for name in ("Kbuild", "Makefile")):
        raise UsageError(f"{source} has no Kbuild and no Makefile", hint="one line is enough: obj-m := NAME.o")
    _prepare(folder, jobs, seconds)
    place = _workplace(folder, source)
    before = changes.survey(source, place.path)
    recipe = f"{changes.recipe(place.make, folder.tools.programs)}\nkernel {_state(folder.path)}"
    found = changes.changed(place.path, source, recipe, before)
    if found.nothing:
        result = BuiltModules(kernel, (), (), (), (), (), True, 0)
    else:
        made = _again(place, folder, found, jobs) if found.built else None
        quick = made is not None
        if made is None:
            place.log.unlink(missing_ok=True)
            words = [*place.make, f"-j{jobs}"]
            what = f"building {source.name}"
            made = make(place.path, words, ["modules"], seconds=seconds, what=what, log=place.log)
        diagnostics, new = diagnose(place, made)
        savedcmd.environment(place.make, place.path)  # now, so that the next edit need not wait for it
        changes.remember(place.path, source, before, recipe)
        result = BuiltModules(kernel, (), (), made.steps, diagnostics, new, quick, 0)
    return _with_modules(result, folder.path, [place.path / f"{path}.ko" for path in _made(place.path)])


# A kernel that has no modules of its own was built without what other modules need: its symbols, how they are linked.
def _prepare(folder: BuildFolder, jobs: int, seconds: float) -> None:
    if config.values(folder.path / ".config").get("MODULES") != "y":
        raise SubjectError("the kernel has no modules: CONFIG_MODULES is off", hint="add --fragment modules")
    if all((folder.path / name).exists() for name in ("Module.symvers", "scripts/module.lds")):
        return
    before = changes.survey(folder.tree.path, folder.path)
    what = "preparing the kernel for modules"
    made = make(folder.path, [*folder.make, f"-j{jobs}"], ["modules"], seconds=seconds, what=what, log=folder.log)
    diagnose(folder, made)
    changes.remember(folder.path, folder.tree.path, before, identity(folder))


# The folder where `kernel` was built, as it was left. The command is that of the build.
@contextlib.contextmanager
def _as_left(kernel: Kernel) -> Iterator[BuildFolder]:
    path = kernel.build
    words = changes.built_from(path) if path is not None else ()
    if kernel.tree is None or path is None or not words:
        raise UsageError(
            f"{kernel.ref} was not built here, so no module can be built for it",
            hint="kernloop kernel build DIR --fragment modules; then --kernel tree:DIR",
        )
    tree = open_tree(kernel.tree)
    with building(path, what=f"building a module for {kernel.ref}", seconds=600):
        tools = toolchain.find("x86_64", llvm=any("clang" in word for word in words))
        folder = BuildFolder(path, tree, tools, words)
        now = kept(path, tree.path)
        same = now is not None and now.digest == kernel.digest
        if not same or not changes.nothing_changed(path, tree.path, identity(folder)):
            raise UsageError(
                f"{tree.path} was edited or built anew since {kernel.ref} was built",
                hint=f"kernloop kernel build {tree.path}",
            )
        yield folder


# By the saved commands, when nothing but sources of modules changed; None when make must do it.
def _again(place: BuildFolder, kernel: BuildFolder, found: changes.Changes, jobs: int) -> Made | None:
    if found.recipe or found.symbols or found.added or found.removed:
        return None
    # make would make anew what was only touched; what lies there is made of this very content.
    rebuild = changes.will_rebuild(place.path, place.tree.path, replace(found, moved=()))
    own = depend.modules(place.path)
    # What a call that failed left behind: objects of sources that may be by now as they were.
    left = {name: own.get(_object(name), "") for name in found.outputs}
    if rebuild.everything or rebuild.unknown or rebuild.links or not all(left.values()):
        return None
    modules = sorted({*rebuild.modules, *left.values()})
    objects = sorted({*rebuild.objects, *(name for name in left if name in own)})
    progress.say(f"making {rebuild.summary()}")
    work = savedcmd.Workplace(
        place.path, kernel.path, kernel.tree.path, savedcmd.environment(place.make, place.path), place.log, jobs
    )
    begun = time.monotonic()
    place.log.unlink(missing_ok=True)
    try:
        with unfinished(place.path):
            status = savedcmd.remake(work, modules, objects)
    except savedcmd.Refused as error:
        progress.say(f"make must do it: {error}")
        return None
    return Made(status, tuple(work.steps), time.monotonic() - begun, place.log)


# The object that a file of a build folder belongs to: fs/ext4/ext4.mod.c and fs/ext4/.ext4.ko.cmd to fs/ext4/ext4.o.
def _object(name: str) -> str:
    folder, _, file = name.rpartition("/")
    file = re.sub(r"(\.mod)?(\.[coS]|\.ko)?(\.cmd|\.d)?$", "", file.removeprefix("."))
    return f"{folder}/{file}.o" if folder else f"{file}.o"


# Where a folder outside the tree is built. Since 6.13 make puts objects elsewhere when told (MO=); before, it is given
# a folder of links.
def _workplace(folder: BuildFolder, source: Path) -> BuildFolder:
    name = f"{source.name}-{hashlib.sha256(f'{source} {folder.path}'.encode()).hexdigest()[:10]}"
    path = folder.tree.home / "outside" / name
    (path / "kernloop").mkdir(parents=True, exist_ok=True)
    words = [f"M={source}", f"MO={path}"]
    if "KBUILD_EXTMOD_OUTPUT" not in (folder.tree.path / "Makefile").read_text():
        words = [f"M={path}"]
        for file in (*source.rglob("*.[chS]"), *source.rglob("Kbuild"), *source.rglob("Makefile")):
            link = path / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file)
    if under_way(path):
        repair(path)
    return BuildFolder(path, SourceTree(source, folder.tree.version), folder.tools, (*folder.make, *words))


def _jobs(request: BuildRequest) -> int:
    return request.jobs or len(os.sched_getaffinity(0))


# What a module outside the tree is made of beside its own sources: the kernel's headers, symbols and configuration.
def _state(folder: Path) -> str:
    state = hashlib.sha256(changes.sources(folder).encode())
    for name in ("Module.symvers", "include/generated/autoconf.h", "include/config/kernel.release"):
        state.update((folder / name).read_bytes())
    return state.hexdigest()


def _of_build(built: Built) -> BuiltModules:
    if built.kernel is None:
        raise UsageError("guests run kernels for x86_64 only", hint="leave --arch out")
    return BuiltModules(built.kernel, (), (), built.steps, built.diagnostics, built.new, False, 0)


# The modules of a build folder, without suffix, in the order of modules.order.
def _made(folder: Path) -> list[str]:
    try:
        return [line.removesuffix(".o") for line in (folder / "modules.order").read_text().split()]
    except OSError:
        return []


# With what they need, in the order of loading.
def _with_modules(found: BuiltModules, folder: Path, wanted: Sequence[Path]) -> BuiltModules:
    known = {Path(path).name.replace("-", "_"): folder / f"{path}.ko" for path in _made(folder)}
    known |= {path.stem.replace("-", "_"): path for path in wanted}
    order: dict[str, Module] = {}

    def add(path: Path) -> None:
        module = read_module(path)
        for name in module.depends:
            if name not in order and name in known:
                add(known[name])
        order[module.name] = module

    for path in wanted:
        add(path)
    return replace(found, modules=tuple(order.values()), wanted=tuple(path.stem.replace("-", "_") for path in wanted))


# Why `what` is no module: the symbol that its Makefile asks.
def _none(folder: BuildFolder, what: str) -> SubjectError:
    above, _, name = what.rpartition("/")
    symbols = config.values(folder.path / ".config")
    if symbols.get("MODULES") != "y":
        return SubjectError("the kernel has no modules: CONFIG_MODULES is off", hint="add --fragment modules")
    for makefile, pattern in ((f"{above}/Makefile", rf"{name}(?:/|\.o)"), (f"{what}/Makefile", r"\S+\.o")):
        with contextlib.suppress(OSError):
            text = (folder.tree.path / makefile).read_text()
            for found in re.finditer(rf"^obj-\$\(CONFIG_(\w+)\)\s*\+?=.*\b{pattern}", text, re.M):
                value = symbols.get(found[1], "n")
                return SubjectError(
                    f"{what} is no module of this kernel: CONFIG_{found[1]} is {value}",
                    hint=f"add --config {found[1]}=m; kernloop kernel config --why {found[1]} says what it needs",
                )
    return SubjectError(f"the build makes no module of {what}", hint="its symbol must be m: --config SYMBOL=m")
