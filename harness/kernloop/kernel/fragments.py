# SPDX-License-Identifier: Apache-2.0
"""Kconfig fragments: those that come with kernloop (kconfigs/*.config), a user's files, and single settings.

A line is `CONFIG_X=value` or `# CONFIG_X is not set`, as in any .config; the last word on a symbol holds. The profiles
say which of them go over which configuration of the kernel's own.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import process

__all__ = ["PROFILES", "Asked", "Profile", "available", "merged", "parse", "read", "setting", "text", "virtme"]

_LINE = re.compile(r"CONFIG_(?P<symbol>\w+)=(?P<value>.*)|# CONFIG_(?P<off>\w+) is not set")
_SETTING = re.compile(r"(?:CONFIG_)?(?P<symbol>[A-Z0-9][A-Za-z0-9_]*)=(?P<value>.+)")


@dataclass(frozen=True)
class Asked:
    """A value that somebody asked a symbol to have, written as in .config but for `n`; `origin` is who did."""

    symbol: str
    value: str
    origin: str


@dataclass(frozen=True)
class Profile:
    """`base` is the target of make that the fragments go over; `virtme` adds what virtme-ng's guests need.

    `cflags` are for gcc, `hostcflags` for what it makes to run here.
    """

    base: str
    fragments: tuple[str, ...]
    virtme: bool
    about: str
    cflags: tuple[str, ...] = ()
    hostcflags: tuple[str, ...] = ()


PROFILES = {
    "tiny": Profile(
        "allnoconfig",
        ("base", "bpf", "sched_ext", "tiny"),
        False,
        "least to build: boots, runs verify, no modules",
        # A fifth less to compile kernel/sched; what it costs is where a debugger finds some local variables. The others
        # save 4 % for what no tool here reads: columns, and several places of a variable within one line.
        (
            "-fno-var-tracking-assignments",
            "-gno-column-info",
            "-gno-statement-frontiers",
            "-gno-variable-location-views",
        ),
        # Of what objtool and resolve_btfids take to compile two fifths; they run as fast.
        ("-O1",),
    ),
    "test": Profile(
        "defconfig",
        ("base", "bpf", "sched_ext", "modules", "guest"),
        True,
        "defconfig and virtme-ng's: host user space, modules",
    ),
    # Not over defconfig: with these checks that is an hour's build, and a boot of minutes without KVM.
    "debug": Profile(
        "allnoconfig",
        (
            *("base", "bpf", "sched_ext", "tiny", "modules"),
            *("debug", "kasan", "lockdep", "watchdog", "kgdb", "pstore", "lkdtm", "ftrace"),
        ),
        False,
        "tiny with modules, KASAN, lockdep, other checks, KGDB; slow",
        hostcflags=("-O1",),
    ),
}


def available() -> dict[str, str]:
    """The fragments that come with kernloop: name to its first line."""
    return {
        path.stem: path.read_text().partition("\n")[0].removeprefix("# ") for path in sorted(_home().glob("*.config"))
    }


def read(name: str, arch: str) -> list[Asked]:
    """What the fragment `name`, one of ours or a file, asks for on `arch`. Raises UsageError."""
    known = available()
    paths = [_home() / f"{name}.config", _home() / f"{arch}/{name}.config"] if name in known else [Path(name)]
    try:
        found = [asked for path in paths[:1] for asked in parse(path.read_text(), name)]
        found += [asked for path in paths[1:] if path.exists() for asked in parse(path.read_text(), name)]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"there is no Kconfig fragment {name!r}: {getattr(error, 'strerror', None) or 'it is no text'}",
            hint=f"a file with lines CONFIG_X=y, or one of: {' '.join(known)}",
        ) from None
    if not found:
        raise UsageError(f"{paths[0]} asks for no symbol", hint="its lines are CONFIG_X=y or # CONFIG_X is not set")
    return found


def parse(text: str, origin: str) -> list[Asked]:
    """The symbols that the .config-like `text` sets; other lines are comments."""
    matches = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return [Asked(m["symbol"] or m["off"], m["value"] or "n", origin) for m in matches if m]


def setting(text: str) -> tuple[str, str]:
    """SYM=V as users write it: `KASAN=y`, `CONFIG_NR_CPUS=8`, `CMDLINE=quiet`. Raises UsageError."""
    match = _SETTING.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} sets no symbol", hint="as in --config KASAN=y or --config NR_CPUS=8")
    value = match["value"]
    plain = value in ("y", "m", "n") or re.fullmatch(r'-?\d+|0x[0-9a-fA-F]+|".*"', value)
    return match["symbol"], value if plain else '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'


def merged(layers: Iterable[Sequence[Asked]]) -> list[Asked]:
    """One word for each symbol: the last layer's."""
    return list({asked.symbol: asked for layer in layers for asked in layer}.values())


def text(asked: Iterable[Asked]) -> str:
    """As lines of a .config."""
    return "".join(
        f"# CONFIG_{a.symbol} is not set\n" if a.value == "n" else f"CONFIG_{a.symbol}={a.value}\n" for a in asked
    )


@cache
def virtme() -> tuple[Asked, ...]:
    """What virtme-ng asks for in a kernel for its guests, as it prints it itself. Raises HarnessError.

    Its lists are wishes: it does not look whether they came true, and neither do we.
    """
    done = process.run(
        [Path(sysconfig.get_path("scripts")) / "virtme-configkernel", "--dry-run", "--defconfig"],
        seconds=30,
        what="asking virtme-ng for its configuration",
    )
    return tuple(parse(done.stdout, "virtme-ng"))


def _home() -> Path:
    here = Path(__file__).resolve()
    checkout = here.parents[3] / "kconfigs"
    return checkout if checkout.is_dir() else here.parents[1] / "data/kconfigs"
