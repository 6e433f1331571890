# SPDX-License-Identifier: Apache-2.0
"""Commands of crash on a vmcore, by a crash that knows the kernel, or else by drgn's commands of the same names.

Which one knows it is found by asking: the machine's own crash, then the newest that Debian has, in a bundle of its own,
each also without the kernel's modules, then drgn. Debian stable's 8.0.6 ends on 7.3 with "invalid structure member
offset: kmem_cache_s_num"; 9.0.2 reads it, but where a module is loaded ends with that of module_num_gpl_syms.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop import runs
from kernloop.debug.tracers.pages import LIMIT, Page
from kernloop.debug.tracers.pages import read as read_page
from kernloop.errors import HarnessError, UsageError
from kernloop.host import bundle, process
from kernloop.host.paths import cache_dir
from kernloop.kernel import debugpackage, refs
from kernloop.kernel.notes import build_id_of_notes

__all__ = ["BUNDLE", "SCHEMA", "Answer", "Answers", "Core", "examine", "run", "vmlinux_of"]

SCHEMA = "kernloop.crash/1"
BUNDLE = bundle.Bundle("crash", ("crash",), ("usr/bin/crash",), suite="sid")
# VMCOREINFO lies in front, in the dump's header or its first note.
_HEAD = 8 << 20
_MAGIC = (b"KDUMP   ", b"\x7fELF", b"makedumpfile")
_SECONDS = 600.0
# crash writes the output of a command to a file by itself. Pipes and ! would be the shell's.
_SHELL = re.compile(r"[|!<]|(?<!-)>|^\s*(?:gdb\s+)?(?:shell|pipe|python|source|extend|edit|q|quit|exit)\b")
_STACKS = re.compile(r"^\s*(?:foreach\b.*\s)?bt\b")
# A file that says how far crash came. Errors of single commands are their answers.
_BEGUN, _ENDED = "begun", "ended"
_DRGN = """
import contextlib, pathlib, sys
from drgn import FaultError, Program
from drgn.commands._crash.common import CRASH_COMMAND_NAMESPACE as commands
from kernloop.debug.target import open_core
core, vmlinux, out, *wanted = sys.argv[1:]
if vmlinux:
    prog = Program()
    prog.set_core_dump(core)
    prog.load_debug_info([vmlinux])
else:
    prog = open_core(pathlib.Path(core))
failed = []
for number, one in enumerate(wanted):
    with open(f"{out}/{number}.txt", "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            commands.run(prog, one)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            failed += [str(error)] if isinstance(error, FaultError) else []
if len(failed) == len(wanted):
    sys.exit(failed[0])
"""


@dataclass(frozen=True)
class Core:
    """A vmcore, as its VMCOREINFO tells; both words are "" when it has none."""

    path: Path
    release: str
    build_id: str


@dataclass(frozen=True)
class Answer:
    """What one command printed: all of it in `path`, its beginning in `page`."""

    command: str
    path: Path
    page: Page


@dataclass(frozen=True)
class Answers:
    """`by` is the program that answered, `why` says why those asked before did not; `vmlinux` is None for BTF."""

    by: str
    why: str
    core: Core
    vmlinux: Path | None
    answers: tuple[Answer, ...]
    said: str


def examine(path: Path) -> Core:
    """What `path` is a dump of. Raises UsageError when it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="kernloop vm dump NAME makes a vmcore"
        ) from None
    if not head.startswith(_MAGIC):
        raise UsageError(f"{path} is no vmcore", hint="kernloop vm dump NAME makes one")
    return Core(path, *(_word(rb"(?:^|\0)%s=(.+)$" % name, head) for name in (b"OSRELEASE", b"BUILD-ID")))


def vmlinux_of(core: Core, given: Path | None = None, *, fetch: bool = False) -> Path:
    """The vmlinux with debugging information of the very build that was dumped.

    `given`; one that was built here; Debian's -dbg package, which is fetched only with `fetch`. Raises UsageError.
    """
    if given is not None:
        return _checked(core, given)
    for known in refs.cached():
        if known.build_id == core.build_id and core.build_id and known.build:
            path = known.build / "vmlinux"
            if path.exists() and _build_id(path) == core.build_id:
                return path
    if "+deb" not in core.release and not core.release.endswith("-amd64"):
        raise UsageError(
            f"the vmlinux of {core.release or 'this dump'}, build-id {core.build_id or 'unknown'}, is not here",
            hint="was its tree built again? Name the file that the guest ran: --vmlinux FILE",
        )
    package = debugpackage.find(core.release)
    path = debugpackage.cached(package) or (debugpackage.fetch(package) if fetch else None)  # type: ignore[assignment]
    if path is None:
        raise UsageError(
            f"{core.release} is Debian's: what crash needs is in {package.name}, {package.size >> 20} MiB to fetch",
            hint="add --fetch-debug; without it, by BTF: --by drgn (no bt), or debug drgn",
        )
    return _checked(core, path)


def run(
    core: Core,
    vmlinux: Path | None,
    commands: Sequence[str],
    *,
    by: str = "",
    out: Path | None = None,
    seconds: float = _SECONDS,
    limit: int = LIMIT,
    say: Callable[[str], None] = lambda what: None,
) -> Answers:
    """Each of `commands` answered into a file of the folder `out`, which is beside the dump if left out.

    `by` is crash or drgn, for that alone; drgn needs no `vmlinux` but for stacks. Raises UsageError for what is no
    command of crash's, HarnessError.
    """
    for one in commands:
        if not one.strip() or "\n" in one or _SHELL.search(one):
            raise UsageError(
                f"{one!r} is not passed to crash: no pipes, redirections, shells",
                hint="one command a word: 'bt -a' log 'struct task_struct.comm init_task'; debug page FILE --grep RE",
            )
        if vmlinux is None and _STACKS.search(one):
            raise UsageError(
                f"{one!r} needs debugging information, BTF has no stacks",
                hint="--fetch-debug or --vmlinux FILE; by ORC: debug drgn VMCORE -e 'stack(1)', 'cpu_stack(0)'",
            )
    folder = out or core.path.with_name(f"{core.path.name}.crash-{time.strftime('%H%M%S')}-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint="name a folder: --out DIR") from None
    found = said = ""
    why: list[str] = []
    if vmlinux is not None and by != "drgn":
        known = _refusals(core)
        for name, argv in _crashes(why):
            if (reason := known.get(name, "")) == "":
                say(f"{name} reads {core.path.name}")
                reason, said = _by_crash(argv, core, vmlinux, commands, folder, seconds)
            if not reason:
                found = name
                break
            why.append(f"{name}: {reason}")
            _remember(core, name, reason)
    if not found and by == "crash":
        raise HarnessError(f"no crash reads it: {'; '.join(why)}", hint="leave --by out: drgn may", evidence=folder)
    if not found:
        say(f"drgn reads {core.path.name}")
        found = _by_drgn(core, vmlinux, commands, folder, seconds, "; ".join(why))
    files = [folder / f"{number}.txt" for number in range(len(commands))]
    answers = tuple(
        Answer(one, file, read_page(file, limit=limit))
        for one, file in zip(commands, files, strict=True)
        if file.exists()
    )
    return Answers(found, "; ".join(why), core, vmlinux, answers, said)


# Each crash that may be asked, with and without modules; `why` gets what could not be had.
def _crashes(why: list[str]) -> Iterator[tuple[str, list[str]]]:
    for own in (True, False):
        try:
            argv = [shutil.which("crash") or ""] if own else bundle.command(bundle.get(BUNDLE), "crash")
        except HarnessError as error:
            why.append(f"crash cannot be had: {error.message}")
            continue
        if not argv[0]:
            continue
        # "crash 9.0.2++"
        said = process.run([*argv, "--version"], seconds=60, what="crash", check=False).stdout
        version = re.search(r"^crash (\S+)", said, re.MULTILINE)
        name = f"crash {version[1]}" if version else argv[0]
        yield name, argv
        if "module" in why[-1]:
            yield f"{name} without modules", [*argv, "--no_modules"]


# What a crash has not known of this build, so that it is not asked again: reading all of Debian's takes it 10 s.
def _refusals(core: Core) -> dict[str, str]:
    return runs.read_json(_refusals_file(core))


def _remember(core: Core, name: str, reason: str) -> None:
    if core.build_id and reason.startswith("invalid structure"):
        _refusals_file(core).parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(_refusals_file(core), _refusals(core) | {name: reason})


def _refusals_file(core: Core) -> Path:
    return cache_dir() / "crash" / f"{core.build_id}.json"


# Why it could not answer, "" if it could; what it said beside its answers.
def _by_crash(
    crash: list[str], core: Core, vmlinux: Path, commands: Sequence[str], folder: Path, seconds: float
) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(prefix="kernloop-crash-") as home:
        # Where it runs there is no .crashrc of anybody's.
        script = Path(home) / "commands"
        lines = [f"{one} > {number}.txt" for number, one in enumerate(commands)]
        script.write_text("\n".join(["set scroll off", f"sys > {_BEGUN}", *lines, f"sys > {_ENDED}", "exit"]) + "\n")
        done = process.run(
            [*crash, "-s", "-i", script, vmlinux.absolute(), core.path.absolute()],
            seconds=seconds,
            what="crash",
            cwd=Path(home),
            env={"HOME": home, "TERM": "dumb", "LC_ALL": "C.UTF-8"},
            check=False,
        )
        made = [Path(home) / f"{number}.txt" for number in range(len(commands))]
        for answer in made:
            if answer.exists():
                shutil.copyfile(answer, folder / answer.name)
        begun, ended = ((Path(home) / name).exists() for name in (_BEGUN, _ENDED))
    said = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.strip())
    (folder / "crash.txt").write_text(said + "\n")
    if ended:
        return "", said
    last = next((line for line in said.splitlines() if line.startswith("crash: ")), said.rpartition("\n")[2])
    reason = last.removeprefix("crash: ") or f"exit {done.status}"
    if begun:
        at = sum((folder / answer.name).exists() for answer in made)
        return f"it ended in {commands[max(at - 1, 0)]!r}: {reason}", said
    return reason, said


def _by_drgn(core: Core, vmlinux: Path | None, commands: Sequence[str], folder: Path, seconds: float, why: str) -> str:
    words = [core.path.absolute(), vmlinux.absolute() if vmlinux else "", folder.absolute(), *commands]
    done = process.run([sys.executable, "-c", _DRGN, *words], seconds=seconds, what="drgn", check=False)
    if done.status:
        last = done.stderr.strip().rpartition("\n")[2]
        also = f"{why}; nor does drgn" if why else "drgn does not read it"
        raise HarnessError(f"{also}: {last}", hint="is the dump whole?", evidence=folder)
    import drgn  # 60 ms, and only where crash does not do

    return f"drgn {drgn.__version__}"


def _checked(core: Core, path: Path) -> Path:
    found = _build_id(path)
    if core.build_id and found != core.build_id:
        raise UsageError(
            f"{path} is of another build: its build-id is {found or 'none'}, the dump's {core.build_id}",
            hint="a kernel built again is another one: name the vmlinux that the guest ran",
        )
    return path


def _build_id(path: Path) -> str:
    from elftools.common.exceptions import ELFError  # pyelftools takes 60 ms to import
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            sections = [one for one in ELFFile(file).iter_sections() if one["sh_type"] == "SHT_NOTE"]
            return next(filter(None, (build_id_of_notes(one.data()) for one in sections)), "")
    except (OSError, ELFError) as error:
        raise UsageError(f"{path} is no vmlinux: {error}", hint="name an ELF with debugging information") from None


def _word(pattern: bytes, text: bytes) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].decode(errors="replace") if found else ""
