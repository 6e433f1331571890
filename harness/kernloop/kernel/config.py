# SPDX-License-Identifier: Apache-2.0
"""The .config of a build folder: a base of the kernel's own, fragments over it, and whether what was asked came true.

Kconfig drops silently what it cannot set, so each symbol asked for is looked up in the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import SubjectError, UsageError
from kernloop.host import process, progress
from kernloop.kernel import dotconfig, fragments, kconfig
from kernloop.kernel.fragments import PROFILES, Asked

__all__ = ["ConfigError", "Dropped", "Wish", "configure", "settled", "values"]

_STAMP = "config.json"


@dataclass(frozen=True)
class Wish:
    """What a configuration is made of: a profile, or a whole .config `base`; fragments by name or file; settings."""

    profile: str = "test"
    fragments: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    base: Path | None = None
    arch: str = "x86_64"


@dataclass(frozen=True)
class Dropped:
    """A symbol that did not come out as asked: `got` as in .config, "n" when off; `why` is the unmet dependency."""

    symbol: str
    asked: str
    got: str
    origin: str
    why: str
    place: str


class ConfigError(SubjectError):
    """Symbols that cannot be set as asked."""

    verdict = "build-failed"

    def __init__(self, dropped: tuple[Dropped, ...]) -> None:
        first = dropped[0]
        more = f", and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        super().__init__(
            f"CONFIG_{first.symbol}={first.asked} (asked by {first.origin}) came out as {first.got}"
            f"{': ' + first.why if first.why else ''}{more}",
            hint=_cure(first),
        )
        self.dropped = dropped


def configure(folder: Path, make: Sequence[str | Path], wish: Wish) -> bool:
    """Make .config in `folder` with `make` unless it is there and its ingredients are the same; whether it was made.

    One that is refused leaves the .config that was there.

    Raises ConfigError naming each symbol of the fragments and settings that was dropped, and why.
    """
    layers, base = _layers(wish)
    wanted = fragments.merged(layers)
    checked = fragments.merged(
        [layer for layer in layers if not layer or layer[0].origin not in ("virtme-ng", "base config")]
    )
    notes = folder / "kernloop"
    key = {"base": base, "asked": _digest(fragments.text(wanted)), "make": _digest("\0".join(map(str, make)))}
    if _same(folder, key):
        return False
    progress.say("configuring the kernel")
    notes.mkdir(parents=True, exist_ok=True)
    (notes / _STAMP).unlink(missing_ok=True)
    asked, made = notes / "asked.config", notes / "new.config"
    asked.write_text(fragments.text(wanted))
    made.unlink(missing_ok=True)
    if base == "allnoconfig":
        unknown = _make(make, made, "allnoconfig", f"KCONFIG_ALLCONFIG={asked}")
    else:
        if base != "file":
            _make(make, made, base)
        with made.open("a") as file:
            file.write(asked.read_text())
        unknown = _make(make, made, "olddefconfig")
    # A fragment of ours serves many releases: what this one does not have, it does not need.
    meant = [a for a in checked if a.symbol not in unknown or a.origin not in fragments.available()]
    if dropped := _dropped(folder, make, made, meant):
        raise ConfigError(dropped)
    # make goes by the time of .config: the same text must not look new.
    if not (folder / ".config").exists() or made.read_bytes() != (folder / ".config").read_bytes():
        made.replace(folder / ".config")
    (notes / _STAMP).write_text(json.dumps(key))
    return True


def settled(folder: Path) -> None:
    """A build has ended well: the Kconfig files it read are those that .config was made with."""
    stamp = folder / "kernloop" / _STAMP
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "kconfig": _kconfig_files(folder)}))


def values(config: Path) -> dict[str, str]:
    """The symbols of a .config that are not off, without their prefix."""
    return dotconfig.symbols(config.read_text())


# The lists of what is asked for, later ones over earlier, and what they go over.
def _layers(wish: Wish) -> tuple[list[Sequence[Asked]], str]:
    layers: list[Sequence[Asked]] = []
    names: tuple[str, ...]
    if wish.base is not None:
        try:
            layers.append(fragments.parse(wish.base.read_text(), "base config"))
        except OSError as error:
            raise UsageError(f"cannot read {wish.base}: {error.strerror}", hint="--base takes a .config") from None
        base, names = "file", ()
    elif wish.profile in PROFILES:
        profile = PROFILES[wish.profile]
        base, names = profile.base, profile.fragments
        if profile.virtme:
            layers.append(fragments.virtme())
    else:
        raise UsageError(f"there is no profile {wish.profile!r}", hint=f"--profile: {' '.join(PROFILES)}")
    layers += [fragments.read(name, wish.arch) for name in (*names, *wish.fragments)]
    if wish.settings:
        layers.append([Asked(symbol, value, "--config") for symbol, value in wish.settings])
    return layers, base


# Returns the symbols that this kernel does not have: Kconfig names them since 6.7 (scripts/kconfig/confdata.c).
def _make(make: Sequence[str | Path], made: Path, *words: str) -> frozenset[str]:
    done = process.run(
        [*make, f"-j{len(os.sched_getaffinity(0))}", "-s", f"KCONFIG_CONFIG={made}", *words],
        seconds=300,
        what=f"make {words[0]}",
        env={"KCONFIG_WARN_UNKNOWN_SYMBOLS": "1"},
    )
    return frozenset(re.findall(r"warning: unknown symbol: (\w+)", done.stderr))


# Made from the same, by Kconfig files that have not changed since, and not edited.
def _same(folder: Path, key: dict[str, str]) -> bool:
    stamp = folder / "kernloop" / _STAMP
    try:
        known = json.loads(stamp.read_text())
        edited = (folder / ".config").stat().st_mtime_ns > stamp.stat().st_mtime_ns
    except (OSError, ValueError):
        return False
    files = known.pop("kconfig", None)
    return bool(known == key) and not edited and files is not None and files == _kconfig_files(folder)


# Those that Kconfig has read: it lists them when it writes auto.conf.
def _kconfig_files(folder: Path) -> str:
    listed = folder / "include/config/auto.conf.cmd"
    try:
        names = re.findall(r"^\t?(?:deps_config := )?\s*(\S*Kconfig\S*)", listed.read_text(), re.M)
    except OSError:
        return ""
    tree = (folder / "source").resolve()
    stats = []
    for name in names:
        path = Path(name) if name.startswith("/") else tree / name
        try:
            found = path.stat()
        except OSError:
            return "gone"
        stats.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    return _digest("\n".join(stats))


def _dropped(folder: Path, make: Sequence[str | Path], made: Path, asked: Sequence[Asked]) -> tuple[Dropped, ...]:
    have = values(made)
    wrong = [a for a in asked if have.get(a.symbol, "n") != a.value and not _fits(a, have.get(a.symbol, "n"))]
    if not wrong:
        return ()
    told = {s.name: s for s in kconfig.explain(folder, make, made, [(a.symbol, a.value) for a in wrong])}
    found = []
    for item in wrong:
        symbol = told[item.symbol]
        # Of kernels whose Kconfig names no symbol that it does not know.
        if not symbol.type and item.origin in fragments.available():
            continue
        why = symbol.why
        if item.value == "n" and symbol.selected_by:
            why = f"it is selected by {' and '.join(symbol.selected_by)}"
        found.append(Dropped(item.symbol, item.value, have.get(item.symbol, "n"), item.origin, why, symbol.place))
    return tuple(found)


# `m` where modules are off becomes y, and built in is more than a module.
def _fits(asked: Asked, got: str) -> bool:
    return asked.value == "m" and got == "y"


def _cure(first: Dropped) -> str:
    place = f" ({first.place})" if first.place else ""
    if "no such symbol" in first.why:
        return f"look for its name: kernloop kernel config DIR --why {first.symbol}"
    return f"set what it needs as well, or leave it out{place}; kernloop kernel config DIR --why {first.symbol}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
