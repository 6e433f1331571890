# SPDX-License-Identifier: Apache-2.0
"""What virtme-ng would run, asked of its dry run: QEMU's command line, and those of the virtiofsd that share folders.

It is given a `virtiofsd` that only writes down its arguments, so its dry run starts nothing.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process
from kernloop.kernel.kernel import Kernel
from kernloop.vm.argv import MachineSpec
from kernloop.vm.topology import Topology

__all__ = ["Said", "ask", "options"]

_SECONDS = 60.0
# virtme-run starts `virtiofsd ... &` by a shell and waits for SOCKET.pid; what follows the socket is of no use to it.
_STAND_IN = r"""#!/bin/sh
case "$1" in
--version) exit 0 ;;
--help) echo "--readonly" ; exit 0 ;;
esac
printf '%s\0' "$@" > "$(mktemp "$KERNLOOP_SAID/XXXXXX")"
while [ $# -gt 1 ]; do
    [ "$1" = --socket-path ] && : > "$2.pid"
    shift
done
"""
# virtme-run asks file(1) for the kernel's release; hosts without it fail.
_FILE = '#!/bin/sh\necho "Linux kernel, version {release}, "\n'


@dataclass(frozen=True)
class Said:
    """What virtme-ng would run: QEMU's argv, and the arguments of each virtiofsd by its socket's path."""

    qemu: tuple[str, ...]
    daemons: Mapping[str, tuple[str, ...]]


def ask(qemu: Path, spec: MachineSpec, kernel: Kernel, folder: Path, *, writable: bool) -> Said:
    """What it would run to share the root read-only and one more folder, with `folder` for temporary files.

    The one more goes under the plain name `folder`/share, for virtme-run builds shell text from it: the real one is for
    the caller to put in. Raises HarnessError.
    """
    said, programs, shared = folder / "said", folder / "bin", folder / "share"
    for made in (said, programs, shared):
        made.mkdir()
    for name, text in (("virtiofsd", _STAND_IN), ("file", _FILE.format(release=kernel.release))):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    argv = [sys.executable, "-m", "virtme.commands.run", "--show-command", "--dry-run", "--disable-monitor"]
    argv += ["--disable-kvm", "--disable-microvm", "--kimg", str(kernel.image), "--mods", "none"]
    argv += ["--qemu-bin", str(qemu), "--memory", f"{spec.memory}M", "--cpus", spec.topology.smp]
    argv += _numa(spec.topology)
    argv += ["--rwdir" if writable else "--rodir", str(shared)]
    done = process.run(
        argv,
        seconds=_SECONDS,
        what="asking virtme-ng for its command line",
        hint="remove .venv and run ./kernloop again",
        env={"KERNLOOP_SAID": str(said), "TMPDIR": str(folder), "PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "C"},
    )
    daemons = {}
    for file in said.iterdir():
        words = tuple(file.read_text().split("\0")[:-1])
        daemons[dict(options(words))["--socket-path"]] = words
    if len(daemons) != 2 or not done.stdout:
        raise HarnessError(
            f"virtme-ng would share {len(daemons)} folders instead of 2: {done.stderr.strip()}",
            hint="is TMPDIR a folder with a plain name?",
        )
    return Said(tuple(shlex.split(done.stdout.splitlines()[-1])), daemons)


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, "" without: no value of virtme-ng's begins with a dash."""
    at = 0
    while at < len(words):
        has_value = at + 1 < len(words) and not words[at + 1].startswith("-")
        yield words[at], words[at + 1] if has_value else ""
        at += 1 + has_value


def _numa(topology: Topology) -> list[str]:
    words = []
    for node in topology.nodes:
        cpus = f",cpus={node.cpus[0]}-{node.cpus[1]}" if node.cpus else ""
        words += ["--numa", f"{node.memory}M{cpus}"]
    for a, b, far in topology.distances:
        words += ["--numa-distance", f"src={a},dst={b},val={far}"]
    return words
