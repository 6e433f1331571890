# SPDX-License-Identifier: Apache-2.0
"""Modules made anew by the commands that their last build saved, without make.

make takes seconds to find out what is to be done, which kernel.changes knows in half of one, and its modpost reads the
whole kernel anew. The commands are kbuild's own, from the .cmd files, run in its order: objects and fixdep
(scripts/Makefile.build), modpost (scripts/Makefile.modpost), MODULE.mod.o, MODULE.ko and its BTF
(scripts/Makefile.modfinal). make then finds all of it up to date. What this cannot do is `Refused`: make does it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from posixpath import normpath

from kernloop.host import process
from kernloop.kernel import dotconfig

__all__ = ["Refused", "Workplace", "environment", "remake"]

_SECONDS = 600.0


class Refused(Exception):
    """Why make must do it."""


@dataclass
class Workplace:
    """`folder` has the modules' objects and .cmd files, `kernel` is the kernel's build folder (the same in-tree),
    `tree` the kernel's source. `env` is what make exports. Everything that is said goes to `log`."""

    folder: Path
    kernel: Path
    tree: Path
    env: Mapping[str, str]
    log: Path
    jobs: int = 2
    steps: list[str] = field(default_factory=list)


def environment(make: Sequence[str], folder: Path) -> dict[str, str]:
    """What `make`, which builds in `folder`, exports to its commands: asked once, then kept there."""
    digest = hashlib.sha256("\0".join(make).encode()).hexdigest()[:10]
    kept = folder / f"kernloop/environment-{digest}"
    if not kept.exists():
        asked = "kernloop-environment: ; @env -0"
        done = process.run([*make, "-s", f"--eval={asked}", "kernloop-environment"], seconds=120, what="asking make")
        kept.write_text(done.stdout, errors="surrogateescape")
    words = kept.read_text(errors="surrogateescape").split("\0")
    found = dict(word.partition("=")[::2] for word in words if "=" in word)
    return {name: value for name, value in found.items() if not name.startswith(("MAKE", "MFLAGS"))}


def remake(place: Workplace, modules: Iterable[str], objects: Iterable[str]) -> int:
    """Make `objects` anew, and of `modules` (their .ko) all that follows: 0, or the status of what failed.

    Raises Refused; some objects may be new then, none is half made.
    """
    stems = [module.removesuffix(".ko") for module in modules]
    composed = [f"{stem}.o" for stem in stems if _parts(place, stem) != [f"{stem}.o"]]
    wanted = [name for name in objects if name not in composed]
    with ThreadPoolExecutor(place.jobs) as pool:
        status = _first(pool.map(lambda name: _again(place, name, "CC [M]"), wanted))
        status = status or _first(pool.map(lambda name: _again(place, name, "LD [M]"), composed))
        status = status or _modpost(place, stems)
        return status or _first(pool.map(partial(_finish, place), stems))


def _first(results: Iterable[int]) -> int:
    return next(filter(None, list(results)), 0)


def _parts(place: Workplace, stem: str) -> list[str]:
    try:
        return [normpath(name) for name in (place.folder / f"{stem}.mod").read_text().split()]
    except OSError:
        raise Refused(f"{stem}.mod is not there") from None


# The saved command of a target as the shell takes it, and as the .cmd file has it: quoted for make.
def _saved(place: Workplace, target: str) -> tuple[str, str]:
    path = place.folder / target
    try:
        lines = path.with_name(f".{path.name}.cmd").read_text().split("\n")
    except OSError:
        raise Refused(f"{target} was never made") from None
    found = re.match(r"(?:saved)?cmd_\S+ := (.*)", lines[0])
    if found is None:
        raise Refused(f"how {target} was made is not known")
    return found[1].replace("$(pound)", "#").replace("$$", "$"), found[1]


def _again(place: Workplace, target: str, what: str) -> int:
    text, quoted = _saved(place, target)
    path = place.folder / target
    depends = path.with_name(f".{path.name}.d")
    status = _run(place, ["sh", "-ec", text], f"  {what:7} {target}")
    if status == 0 and depends.exists():
        fixdep = place.kernel / "scripts/basic/fixdep"
        # fixdep looks for include/config by a path that is relative to the kernel's folder or absolute, as it was told.
        words: list[str | Path] = [fixdep, depends.relative_to(place.folder), target, quoted]
        done = process.run(words, seconds=60, what=f"reading what {target} is made of", cwd=place.folder)
        path.with_name(f".{path.name}.cmd").write_text(done.stdout)
        depends.unlink()
    if status == 0:
        path.with_name(f".{path.name}.cmd").touch()  # a target that is newer is one whose making was cut short
    else:
        # As make's .DELETE_ON_ERROR.
        for left in (path, depends):
            left.unlink(missing_ok=True)
    return status


def _modpost(place: Workplace, stems: Sequence[str]) -> int:
    text, _ = _saved(place, "Module.symvers")
    if place.folder != place.kernel:
        return _run(place, ["sh", "-ec", text], "  MODPOST Module.symvers")
    notes = place.folder / "kernloop"
    known = (place.folder / "Module.symvers").read_text().splitlines()
    # CRC, symbol, module without suffix, kind, namespace.
    ours = {line for line in known if line.split("\t")[2:3] and line.split("\t")[2] in stems}
    (notes / "others.symvers").write_text("".join(f"{line}\n" for line in known if line not in ours))
    (notes / "modules.order").write_text("".join(f"{stem}.o\n" for stem in stems))
    program, *words = shlex.split(text)
    flags = [word for word in words if re.fullmatch(r"-[MmbxaENwW]", word)]
    if not program.endswith("modpost") or len(flags) != len(words) - 5:
        raise Refused("modpost was called in a way that is not known")
    out = notes / "modules.symvers"
    argv = [program, *flags, "-o", str(out), "-T", str(notes / "modules.order"), "-i", str(notes / "others.symvers")]
    status = _run(place, argv, "  MODPOST " + " ".join(stems))
    if status == 0 and set(out.read_text().splitlines()) != ours:
        raise Refused("other symbols are exported now")
    return status


def _finish(place: Workplace, stem: str) -> int:
    made, source = place.folder / f"{stem}.mod.o", place.folder / f"{stem}.mod.c"
    if not made.exists() or source.stat().st_mtime_ns > made.stat().st_mtime_ns:
        status = _again(place, f"{stem}.mod.o", "CC [M]")
        if status != 0:
            return status
    status = _again(place, f"{stem}.ko", "LD [M]")
    config = dotconfig.symbols((place.kernel / ".config").read_text())
    if status == 0 and config.get("DEBUG_INFO_BTF_MODULES") == "y" and (place.kernel / "vmlinux").exists():
        script = place.tree / "scripts/gen-btf.sh"
        if not script.exists():
            raise Refused("this kernel makes BTF of modules in a way that is not known")
        words = ["sh", str(script), "--btf_base", str(place.kernel / "vmlinux"), f"{stem}.ko"]
        status = _run(place, words, f"  BTF [M] {stem}.ko")
        if status != 0:
            (place.folder / f"{stem}.ko").unlink(missing_ok=True)
    return status


# One command; what it says stands behind its line in the log, unmixed with that of others.
def _run(place: Workplace, argv: Sequence[str], line: str) -> int:
    done = process.run(argv, seconds=_SECONDS, what=line.strip(), cwd=place.folder, env=place.env, check=False)
    place.steps.append(" ".join(line.split()).replace(" [M]", ""))
    with place.log.open("a") as log:
        log.write("\n".join([line, done.stdout + done.stderr]).rstrip("\n") + "\n")
        if done.status != 0:
            log.write(f"make: *** [{line.split()[-1]}] Error {done.status}\n")
    return done.status
