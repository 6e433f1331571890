# SPDX-License-Identifier: Apache-2.0
"""How a bisect builds a kernel, and the guest that it runs the command in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kernloop.errors import UsageError
from kernloop.git.probe import GuestProbe
from kernloop.git.signature import Signature
from kernloop.kernel.kernel import Kernel
from kernloop.vm import run as vm
from kernloop.vm.topology import parse_cpus

__all__ = ["Target", "guest_probe"]


@dataclass(frozen=True)
class Target:
    """The build's options as of `kernel build`, the guest's as of `run`; `memory` in MiB."""

    profile: str = "test"
    fragments: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    llvm: bool = False
    jobs: int | None = None
    cpus: str = "2"
    memory: int = 512
    files: tuple[Path, ...] = ()
    append: tuple[str, ...] = ()

    @classmethod
    def remembered(cls, value: Mapping[str, Any]) -> Target:
        """What spec.json has of one."""
        known = {field.name: value[field.name] for field in fields(cls)}
        return cls(
            **{
                **known,
                "fragments": tuple(known["fragments"]),
                "settings": tuple((name, setting) for name, setting in known["settings"]),
                "files": tuple(map(Path, known["files"])),
                "append": tuple(known["append"]),
            }
        )

    def check(self) -> None:
        """Raise UsageError for what no guest can be given."""
        parse_cpus(self.cpus)
        for file in self.files:
            if not file.is_file():
                raise UsageError(f"cannot read {file}", hint="--with takes files that are there")


def guest_probe(
    target: Target,
    command: tuple[str, ...],
    timeout: float,
    signature: Signature,
    tree: Path,
    objects: Path,
    *,
    checkout: Callable[[str], None],
    built: Mapping[str, str],
    title: Callable[[str], str],
    say: Callable[[str], None],
) -> GuestProbe:
    """A probe that builds `tree`, brought to a subject by `checkout`, always with the same folder of `objects`."""

    def build(subject: str) -> Kernel:
        from kernloop.kernel.build import BuildRequest
        from kernloop.kernel.build import build as make

        checkout(subject)
        kernel = make(
            BuildRequest(
                tree,
                profile=target.profile,
                fragments=target.fragments,
                settings=target.settings,
                jobs=target.jobs,
                llvm=target.llvm,
                folder=objects,
            )
        ).kernel
        assert kernel is not None  # only other architectures give none
        return kernel

    request = vm.Request(
        command,
        topology=parse_cpus(target.cpus),
        memory=target.memory,
        timeout=timeout,
        files=target.files,
        append=target.append,
        cold=True,
    )
    return GuestProbe(build, request, signature, built=built, title=title, say=say)
