# SPDX-License-Identifier: Apache-2.0
"""Files and folders on their way into a guest and out of it, as tar archives."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kernloop.errors import HarnessError, UsageError

__all__ = ["archived", "extract", "pieces"]


def pieces(data: bytes, size: int = 1 << 18) -> Iterable[bytes]:
    """`data` in parts of `size` bytes."""
    return (data[at : at + size] for at in range(0, len(data), size))


def archived(source: Path) -> tuple[Callable[[str], bytes], str]:
    """What makes the archive of `source` under a name that is given to it, and its own name. Raises UsageError."""
    if not source.exists():
        raise UsageError(f"{source} is not there", hint="name a file or a folder of this machine")

    def make(name: str) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(source, name, filter=_as_root)
        return out.getvalue()

    return make, source.absolute().name


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def extract(data: bytes, name: str, target: Path) -> None:
    """Put the member `name` of the archive `data` to `target`, or into it if that is a folder. Raises HarnessError."""
    folder, final = (target, name) if target.is_dir() else (target.parent, target.name)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="make it first")
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive.getmembers():
                member.name = final + member.name.removeprefix(name)
                # Refuses absolute names, links out of the folder and devices: the guest is not trusted.
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise HarnessError(f"cannot write to {folder}: {error}", hint="is it writable, is there room?") from None
