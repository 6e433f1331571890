# SPDX-License-Identifier: Apache-2.0
"""From a source tree to a bootable Kernel, with the least building possible.

Objects, configuration and logs lie in a folder of the cache, one for each way in which a tree is built; the tree stays
as it is. The result is copied to the cache of kernels under its digest, so a build that goes on does not change a
kernel that a run has asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.host import process, progress
from kernloop.host.cache import need_space
from kernloop.kernel import changes, config, depend, fragments, toolchain
from kernloop.kernel.config import Wish
from kernloop.kernel.depend import Rebuild
from kernloop.kernel.fragments import PROFILES
from kernloop.kernel.kept import keep
from kernloop.kernel.kernel import Kernel
from kernloop.kernel.make import Made, make, repair, under_way
from kernloop.kernel.toolchain import ARCHES, Toolchain
from kernloop.kernel.tree import SourceTree, building, open_tree
from kernloop.report import compiler
from kernloop.report.compiler import Diagnostic

__all__ = [
    "BuildFailed",
    "BuildFolder",
    "BuildRequest",
    "Built",
    "build",
    "command",
    "diagnose",
    "folder_of",
    "identity",
    "opened",
]

_SECONDS = 4 * 3600.0
_LOG = "build.log"
_MIB_NEEDED = 3000
_KNOWN = "diagnostics.json"
_NOTHING = 1 << 20
_NONE: tuple[Diagnostic, ...] = ()
# What make does beside compiling when something was compiled: archives, links, BTF, the boot image.
_LINK_STEPS = 40


@dataclass(frozen=True)
class BuildRequest:
    """What to build. `folder` is where objects go, one of the cache for this tree and way of building by default."""

    tree: Path
    profile: str = "test"
    fragments: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    config: Path | None = None
    jobs: int | None = None
    llvm: bool = False
    arch: str = "x86_64"
    folder: Path | None = None
    seconds: float = _SECONDS

    @property
    def wish(self) -> Wish:
        return Wish(self.profile, self.fragments, self.settings, self.config, self.arch)


@dataclass(frozen=True)
class Built:
    """`kernel` is None for an architecture that guests cannot run; its image is `image` in any case.

    `rebuild` is what was out of date and why, `steps` the commands that ran; None and empty when nothing had changed.
    `new` are the diagnostics that the build before did not have.
    """

    kernel: Kernel | None
    image: Path
    folder: Path
    log: Path
    steps: tuple[str, ...]
    rebuild: Rebuild | None
    diagnostics: tuple[Diagnostic, ...]
    new: tuple[Diagnostic, ...]
    configured: bool


class BuildFailed(SubjectError):
    """The code does not build; `diagnostics` say where, the errors among them first."""

    verdict = "build-failed"

    def __init__(self, what: str, diagnostics: tuple[Diagnostic, ...], new: tuple[Diagnostic, ...], log: Path) -> None:
        errors = compiler.errors(diagnostics)
        first = errors[0] if errors else None
        place = f"{first.file}:{first.line}: " if first and first.file else ""
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        super().__init__(
            f"{what} failed: {place}{first.message}{more}" if first else f"{what} failed, and no error was understood",
            hint=f"edit {first.file}, line {first.line}" if first and first.file else f"read the end of {log}",
            evidence=log,
        )
        self.diagnostics = diagnostics
        self.new = new
        self.log = log


@dataclass(frozen=True)
class BuildFolder:
    """A folder of make's objects, its lock held: `make` is the command line for it, targets left out."""

    path: Path
    tree: SourceTree
    tools: Toolchain
    make: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.path / "kernloop" / _LOG


def folder_of(request: BuildRequest, tree: SourceTree) -> Path:
    """Where `request` is built: named by its profile and fragments, and a hash of what else differs."""
    if request.folder is not None:
        return request.folder.expanduser().resolve()
    name = "+".join([request.profile if request.config is None else "own", *map(_plain, request.fragments)])
    paths = [str(Path(f).resolve()) for f in request.fragments if "/" in f]
    other = [*request.settings, *paths, *([str(request.config.resolve())] if request.config else [])]
    if other:
        name += f"-{hashlib.sha256(json.dumps(other).encode()).hexdigest()[:8]}"
    return tree.home / "-".join(
        [name, *(["llvm"] if request.llvm else []), *([a] if (a := request.arch) != "x86_64" else [])]
    )


@contextlib.contextmanager
def opened(request: BuildRequest) -> Iterator[BuildFolder]:
    """The folder for `request`, made or as it was left, alone with it. Raises UsageError, HarnessError."""
    tree = open_tree(request.tree)
    tree.check_clean()
    for name in request.fragments:
        fragments.read(name, request.arch)  # one that is misspelt leaves no folder of its name
    tools = toolchain.find(request.arch, llvm=request.llvm)
    path = folder_of(request, tree)
    if path == tree.path or tree.path in path.parents:
        raise UsageError(f"{path} lies in the tree", hint="objects go elsewhere, so that the tree stays as it is")
    with _disk_errors(path), building(path, what=f"building {tree.path}", seconds=request.seconds):
        (path / "kernloop").mkdir(parents=True, exist_ok=True)
        if not (path / "vmlinux").exists():
            need_space(path, _MIB_NEEDED, "building a kernel")
        words = command(tree, path, tools, _flags(request))
        if under_way(path):
            progress.say("looking for what a killed build left half done")
            repair(path)
        yield BuildFolder(path, tree, tools, words)


def command(tree: SourceTree, folder: Path, tools: Toolchain, flags: Mapping[str, str]) -> tuple[str, ...]:
    """make for `folder`, without targets; `flags` beside the kernel's own, by make's names for them."""
    extra = [f"{name}={words}" for name, words in flags.items() if words]
    return (*tools.prefix, "make", "-C", str(tree.path), f"O={folder}", *tools.words, *extra)


# Those of the caller's environment, and the profile's.
def _flags(request: BuildRequest) -> dict[str, str]:
    profile = PROFILES.get(request.profile) if request.config is None and not request.llvm else None
    ours = {"KCFLAGS": profile.cflags, "HOSTCFLAGS": profile.hostcflags} if profile else {}
    names = ("KCFLAGS", "HOSTCFLAGS")
    return {name: " ".join(filter(None, [os.environ.get(name), *ours.get(name, ())])) for name in names}


def build(request: BuildRequest) -> Built:
    """Configure and build. Raises BuildFailed or ConfigError (the code's, the configuration's fault), HarnessError."""
    with opened(request) as folder:
        configured = config.configure(folder.path, folder.make, request.wish)
        symbols = config.values(folder.path / ".config")
        tree = folder.tree.path
        # First: what is edited while make runs is then seen the next time.
        before = changes.survey(tree, folder.path, ARCHES[request.arch].folder)
        recipe = identity(folder)
        found = changes.changed(folder.path, tree, recipe, before)
        image = folder.path / ARCHES[request.arch].image
        made, rebuild = None, None
        diagnostics, new = _read(folder.path / "kernloop" / _KNOWN), _NONE
        if not found.nothing:
            rebuild = changes.will_rebuild(folder.path, tree, found)
            progress.say(f"will build {rebuild.summary()}")
            changes.forget(folder.path)
            for stale in depend.overlooked(folder.path, tree, rebuild):
                stale.unlink()
            made = _make(request, folder, symbols, None if rebuild.everything else len(rebuild.objects))
            diagnostics, new = diagnose(folder, made)
            config.settled(folder.path)
            changes.remember(folder.path, tree, before, recipe)
        brought = None
        if request.arch == "x86_64":
            brought = keep(folder.path, tree, folder.make, image)
            if request.folder is None:
                folder.tree.remember(folder.path)
        steps = made.steps if made else ()
        return Built(brought, image, folder.path, folder.log, steps, rebuild, diagnostics, new, configured)


def identity(folder: BuildFolder) -> str:
    """What decides about what is built in `folder` beside the tree and .config (kernel.changes)."""
    named = config.values(folder.path / ".config").get("LOCALVERSION_AUTO") == "y"
    return changes.recipe(folder.make, folder.tools.programs, folder.tree.path if named else None)


def _make(request: BuildRequest, folder: BuildFolder, symbols: dict[str, str], objects: int | None) -> Made:
    targets = [Path(ARCHES[request.arch].image).name, "vmlinux"]
    if "m" in symbols.values():
        targets.append("modules")
    if symbols.get("GDB_SCRIPTS") == "y":
        targets.append("scripts_gdb")
    targets.append("compile_commands.json")
    jobs = request.jobs or len(os.sched_getaffinity(0))
    folder.log.unlink(missing_ok=True)
    return make(
        folder.path,
        [*folder.make, f"-j{jobs}"],
        targets,
        seconds=request.seconds,
        what=f"building {folder.tree.path.name}",
        log=folder.log,
        expected=None if objects is None else objects + _LINK_STEPS,
    )


def diagnose(folder: BuildFolder, made: Made) -> tuple[tuple[Diagnostic, ...], tuple[Diagnostic, ...]]:
    """What stands of the log of `made` and of those before it, and what is new. Raises BuildFailed, HarnessError."""
    text = folder.log.read_text(errors="replace") if folder.log.exists() else ""
    said = compiler.parse(text.splitlines(), tree=str(folder.tree.path))
    found = compiler.with_functions(said, lambda file: _lines(folder.tree.path / file))
    known = folder.path / "kernloop" / _KNOWN
    before = _read(known)
    new = tuple(compiler.new(found, before))
    # A warning of a file that was not compiled this time still stands; the links' own are said each time.
    compiled = {step.partition(" ")[2].rpartition(".")[0] for step in made.steps}
    compiled |= {diagnostic.file.rpartition(".")[0] for diagnostic in found}
    old = (d for d in before if d.file and d.file.rpartition(".")[0] not in compiled and not d.is_error)
    standing = (*found, *old)
    known.write_text(json.dumps([asdict(d) for d in standing]))
    if made.status != 0:
        _fail(folder, made, found, new)
    return standing, new


def _fail(folder: BuildFolder, made: Made, found: tuple[Diagnostic, ...], new: tuple[Diagnostic, ...]) -> None:
    errors = compiler.errors(found)
    kept = folder.log.with_name("failed.log")
    shutil.copy2(folder.log, kept)
    if made.status < 0:
        raise HarnessError(f"make was killed by signal {-made.status}", hint="build again: it goes on", evidence=kept)
    # Some programs of a build fail without a word when they cannot write.
    full = any(error.kind == "disk-full" for error in errors)
    if full or process.disk_full(kept.read_text(errors="replace")) or shutil.disk_usage(folder.path).free < _NOTHING:
        raise HarnessError(f"the disk is full ({folder.path})", hint=_CURES["disk-full"], evidence=kept)
    for error in errors:
        if error.fault == "machine":
            raise HarnessError(
                f"the build needs something of this machine: {error.message}",
                hint=_CURES.get(error.kind, "read the log"),
                evidence=kept,
            )
        if error.fault == "caller":
            raise UsageError(f"the build was ended: {error.message}", hint="build again", evidence=kept)
    raise BuildFailed(f"building {folder.tree.path.name}", found, new, kept)


_CURES = {
    "disk-full": "free some space, or set XDG_CACHE_HOME to a larger file system; then build again: it goes on",
    "killed": "give the machine more memory, or --jobs 1; then build again: it goes on",
    "missing-tool": "kernloop doctor --fix",
    "missing-header": "kernloop doctor --fix",
}


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"cannot write {error.filename or path}: {error.strerror}",
            hint="free some space, or set XDG_CACHE_HOME to a larger file system",
        ) from None


def _lines(path: Path) -> list[str] | None:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return None


def _read(path: Path) -> tuple[Diagnostic, ...]:
    try:
        return tuple(_diagnostic(item) for item in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return ()


def _diagnostic(item: dict[str, object]) -> Diagnostic:
    fields = {**item, "notes": (), "included": ()}
    return Diagnostic(**fields)  # type: ignore[arg-type]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", Path(text).stem if text.endswith(".config") else text)
