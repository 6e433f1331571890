# SPDX-License-Identifier: Apache-2.0
"""How a bisect builds a kernel, and the guest that it runs the command in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.kernel import fragments
from kernloop.kernel.build import BuildRequest
from kernloop.runs import write_text
from kernloop.vm import run as vm
from kernloop.vm.topology import parse_cpus

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """The build's options as of `kernel build`, the guest's as of `run`; `memory` in MiB."""

    profile: str = "test"
    fragments: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    base: Path | None = None
    llvm: bool = False
    jobs: int | None = None
    cpus: str = "2"
    memory: int = 512
    files: tuple[Path, ...] = ()
    append: tuple[str, ...] = ()

    @classmethod
    def remembered(cls, value: Mapping[str, Any]) -> Target:
        """What spec.json has of one; what an older kernloop did not write there is as by default."""
        known = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        for name in ("fragments", "append"):
            known[name] = tuple(known.get(name, ()))
        known["settings"] = tuple((name, setting) for name, setting in known.get("settings", ()))
        known["files"] = tuple(map(Path, known.get("files", ())))
        known["base"] = Path(known["base"]) if known.get("base") else None
        return cls(**known)

    def check(self) -> None:
        """Raise UsageError for what cannot be built or given to a guest, before a tree is checked out for it."""
        parse_cpus(self.cpus)
        if self.profile not in fragments.PROFILES:
            raise UsageError(f"there is no profile {self.profile!r}", hint=f"--profile: {' '.join(fragments.PROFILES)}")
        for name in self.fragments:
            fragments.read(name, "x86_64")
        for option, files in (("--with", self.files), ("--base", (self.base,))):
            for file in files:
                if file is not None and not file.is_file():
                    raise UsageError(f"cannot read {file}", hint=f"{option} takes a file that is there")

    def pinned(self, folder: Path) -> Target:
        """The same with copies, in `folder`, of the configuration files it names: an edit must not reach a search.

        Copies that are there already, of a bisect that is resumed, hold.
        """
        given = enumerate(self.fragments)
        copies = tuple(_pinned(name, folder / f"{number}-{Path(name).name}") for number, name in given)
        base = Path(_pinned(str(self.base), folder / "base.config")) if self.base else None
        return replace(self, base=base, fragments=copies)

    def build(self, tree: Path, folder: Path) -> BuildRequest:
        """How `tree` is built, its objects in `folder`."""
        return BuildRequest(
            tree, self.profile, self.fragments, self.settings, self.base, self.jobs, self.llvm, folder=folder
        )

    def run(self, command: tuple[str, ...], timeout: float) -> vm.Request:
        """How the command is run.

        Each run is a boot of its own: guests restored from one boot would all see the same of what the boot decides.
        """
        return vm.Request(
            command,
            topology=parse_cpus(self.cpus),
            memory=self.memory,
            timeout=timeout,
            files=self.files,
            append=self.append,
            cold=True,
        )


# The copy of the file `name`; what names no file is one of kernloop's own fragments.
def _pinned(name: str, copy: Path) -> str:
    if not copy.exists():
        if not Path(name).is_file():
            return name
        copy.parent.mkdir(exist_ok=True)
        write_text(copy, Path(name).read_text())
    return str(copy)
