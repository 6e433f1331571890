# SPDX-License-Identifier: Apache-2.0
"""Released schedulers of github.com/sched-ext/scx: built from crates.io once a version, kept in the cache.

cargo builds all of them in one folder, for they share most of their crates: the first takes minutes, the others less.
A version that is there was installed whole (host/cache.py); two at once wait for each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host import needs, process, progress, toolset
from kernloop.host.cache import ensure, exclusive, need_space
from kernloop.host.paths import cache_dir
from kernloop.sched import embedded

__all__ = ["KNOWN", "Release", "find", "get", "listing"]

# Those that crates.io had in October 2026; another name is asked for all the same.
KNOWN = (
    "scx_beerland",
    "scx_bpfland",
    "scx_chaos",
    "scx_cosmos",
    "scx_flash",
    "scx_lavd",
    "scx_layered",
    "scx_p2dq",
    "scx_rustland",
    "scx_rusty",
    "scx_tickless",
)
_NAME = re.compile(r"(?P<name>[A-Za-z][\w-]*)(?:@(?P<version>\d+\.\d+\.\d+[\w.+-]*))?")
_VERSION = re.compile(r"^version: (\S+)", re.MULTILINE)
_STEP = re.compile(r"(?P<done>\d+)/(?P<all>\d+)(?:: (?P<crate>[\w-]+))?")
_COMPILING = re.compile(r"Compiling (?P<crate>\S+)")
# ld.lld, then GNU ld
_LIBRARY = re.compile(r"(?:unable to find library|cannot find) -l([\w+-]+)")
_MIB_NEEDED = 3000
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Release:
    """A scheduler as released: its loader, and the BPF object that lies in it."""

    name: str
    version: str
    program: Path
    object: Path


def get(word: str, *, seconds: float) -> Release:
    """NAME or NAME@VERSION, built unless it is there; without a version the newest that the registry has.

    Raises UsageError for a crate that is not there or is no scheduler, HarnessError.
    """
    name, version = _split(word)
    if not version:
        version = _newest(name)
    folder = _folder() / f"{name}-{version}"
    if not folder.exists():
        missing = [need for need in needs.rust_needs(needs.distribution()) if need.state is not needs.State.OK]
        if missing:
            raise HarnessError(
                f"building {name} takes {', '.join(need.name for need in missing)}, which this machine lacks",
                hint="; ".join(dict.fromkeys(need.cure for need in missing)),
            )
        need_space(folder, _MIB_NEEDED, f"building {name}")
    what = f"building {name} {version} (some minutes)"
    ensure(folder, lambda staging: _install(name, version, staging, seconds), what=what, seconds=seconds)
    return _load(folder)


def find(word: str) -> Release | None:
    """The scheduler NAME[@VERSION] if it was built, of several versions the newest. Builds nothing."""
    match = _NAME.fullmatch(word)
    if match is None:
        return None
    built = [one for one in listing() if one.name == match["name"] and match["version"] in (None, one.version)]
    return built[-1] if built else None


def listing() -> list[Release]:
    """What was built, by name, older versions first."""
    found = [_load(file.parent) for file in _folder().glob(f"*/{_MANIFEST}") if not file.parent.name.startswith(".")]
    return sorted(found, key=lambda one: (one.name, _order(one.version)))


def _folder() -> Path:
    return cache_dir() / "released"


def _split(word: str) -> tuple[str, str]:
    match = _NAME.fullmatch(word)
    if match is None:
        raise UsageError(f"{word!r} is no NAME or NAME@VERSION", hint="kernloop sched get scx_bpfland")
    return match["name"], match["version"] or ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _newest(name: str) -> str:
    done = process.run(
        [_cargo(), "info", "--registry", "crates-io", name],
        seconds=120,
        what=f"asking the registry for {name}",
        cwd=Path("/"),
        env=_QUIET,
        check=False,
    )
    if done.status == 0 and (match := _VERSION.search(done.stdout)):
        return match[1]
    if "could not find" in done.stderr:
        raise _unknown(name)
    kept = find(name)
    if kept is not None:
        progress.say(f"the registry does not answer; {name} {kept.version} is there")
        return kept.version
    raise HarnessError(
        f"cargo cannot ask the registry for {name}: {_last(done.stderr)}",
        hint="is crates.io, or the registry that cargo is set to, to be reached? cargo 1.82 is the first that can ask",
    )


_QUIET = {"CARGO_TERM_COLOR": "never"}


def _cargo() -> str:
    found = shutil.which("cargo")
    if found is None:
        raise HarnessError("cargo is not installed, and released schedulers are built by it", hint=needs.RUSTUP)
    return found


def _unknown(name: str) -> UsageError:
    return UsageError(f"crates.io has no {name}", hint="it has " + ", ".join(KNOWN))


def _install(name: str, version: str, staging: Path, seconds: float) -> None:
    what = f"building {name} {version}"
    log = _folder() / f"{name}.log"
    # Its bar tells how many crates there are; without a terminal it draws none unless told to, and how wide.
    env = {
        **_QUIET,
        "CARGO_TERM_PROGRESS_WHEN": "always",
        "CARGO_TERM_PROGRESS_WIDTH": "100",
        "CARGO_TARGET_DIR": str(_folder() / "target"),
        "BPF_CLANG": os.environ.get("BPF_CLANG", str(toolset.get().clang)),
    }
    words: list[str | Path] = [
        _cargo(),
        "install",
        "--locked",
        "--registry",
        "crates-io",
        "--root",
        staging,
        f"{name}@{version}",
    ]
    lines: list[str] = []
    # cargo would wait for the folder by itself, but without an end.
    with exclusive("released-target", what=what, seconds=seconds):
        status = process.follow(words, _told(what, lines), seconds=seconds, what=what, cwd=Path("/"), env=env)
    log.write_text("\n".join(lines) + "\n")
    if status != 0:
        _refuse(name, version, lines, log)
    program = _scheduler(name, staging / "bin")
    (staging / f"{name}.bpf.o").write_bytes(embedded.schedulers(program)[-1])
    made = {"name": name, "version": version, "program": program.name, "clang": env["BPF_CLANG"]}
    (staging / _MANIFEST).write_text(json.dumps(made, indent=2) + "\n")


def _told(what: str, lines: list[str]) -> Callable[[str], None]:
    begun = time.monotonic()

    def line(text: str) -> None:
        # The bar is drawn over itself: a line of it ends in a carriage return.
        for part in re.split(r"\r|\x1b\[K", text):
            step = _STEP.search(part) if "Building" in part else None
            if step is not None and int(step["done"]):
                spent = time.monotonic() - begun
                crate = f": {step['crate']}" if step["crate"] else ""
                progress.at(f"{what}{crate}", spent, spent * int(step["all"]) / int(step["done"]))
            elif part.strip():
                lines.append(part)

    return line


def _refuse(name: str, version: str, lines: list[str], log: Path) -> None:
    text = "\n".join(lines)
    if process.disk_full(text):
        raise HarnessError(f"building {name}: the disk is full", hint="free some space, or: kernloop runs gc")
    if re.search(rf"could not find `{re.escape(name)}` in registry", text):
        raise UsageError(f"crates.io has no {name} {version}", hint=f"the newest is had by: kernloop sched get {name}")
    if lacking := _LIBRARY.search(text):
        package = f"lib{lacking[1]}-dev"
        raise HarnessError(
            f"building {name} {version} links with lib{lacking[1]}, which this machine lacks",
            hint=needs.install_line((package,), needs.distribution()),
            evidence=log,
        )
    errors = [line for line in lines if line.startswith("error") and "could not compile" not in line]
    raise HarnessError(
        f"building {name} {version} failed: {errors[0] if errors else _last(text)}",
        hint="kernloop doctor says what Rust schedulers take; what cargo said is in the file",
        evidence=log,
    )


def _scheduler(name: str, folder: Path) -> Path:
    programs = [path for path in sorted(folder.iterdir()) if embedded.schedulers(path)] if folder.is_dir() else []
    if not programs:
        raise UsageError(f"{name} is no scheduler: no program of it has a sched_ext object in it",
                         hint="schedulers are " + ", ".join(KNOWN))  # fmt: skip
    return next((path for path in programs if path.name == name), programs[0])


def _last(text: str) -> str:
    said = [line for line in text.splitlines() if line.strip()]
    return said[-1].strip() if said else "it printed nothing"


def _load(folder: Path) -> Release:
    made = json.loads((folder / _MANIFEST).read_text())
    name = str(made["name"])
    return Release(name, str(made["version"]), folder / "bin" / str(made["program"]), folder / f"{name}.bpf.o")
