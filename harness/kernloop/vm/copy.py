# SPDX-License-Identifier: Apache-2.0
"""Files and folders on their way into a guest and out of it, as tar archives."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kernloop.errors import HarnessError, UsageError
from kernloop.host import owned

__all__ = ["archived", "extract", "pieces"]

# tarfile's own filter came with Python 3.11.4, Debian 12 has 3.11.2; without it later Pythons warn or choose another.
_FILTER: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


def pieces(data: bytes, size: int = 1 << 18) -> Iterable[bytes]:
    """`data` in parts of `size` bytes."""
    return (data[at : at + size] for at in range(0, len(data), size))


def archived(source: Path, limit: int) -> tuple[Callable[[str], bytes], str]:
    """What makes the archive of `source` under a name that is given to it, and its own name.

    Raises UsageError, also for more than `limit` bytes.
    """
    if not source.exists():
        raise UsageError(f"{source} is not there", hint="name a file or a folder of this machine")

    def make(name: str) -> bytes:
        out = io.BytesIO()
        left = limit

        def fitting(member: tarfile.TarInfo) -> tarfile.TarInfo:
            nonlocal left
            left -= member.size
            if left < 0:
                raise UsageError(
                    f"{source} is more than the guest has memory for: {limit >> 20} MiB", hint="start one with more"
                )
            return _as_root(member)

        try:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
                archive.add(source, name, filter=fitting)
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename or source}: {error.strerror}", hint="copy what can be read"
            ) from None
        return out.getvalue()

    return make, source.resolve().name


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def extract(archive: BinaryIO, name: str, target: Path) -> None:
    """Put the member `name` of `archive` to `target`, or into it if that is a folder. Raises UsageError, HarnessError.

    The guest is not trusted: whatever it calls its files, they come to lie in a folder of their own first, and only
    `name` moves from there.
    """
    final = target / name if target.is_dir() else target
    if not final.parent.is_dir():
        raise UsageError(f"there is no folder {final.parent}", hint="make it first")
    if final.is_dir():
        raise UsageError(f"there is a folder {final} already", hint="name another one")
    staging = final.parent / f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.staging"
    with owned.folder(staging):
        try:
            staging.mkdir(mode=0o700)
            with tarfile.open(fileobj=archive, mode="r|") as members:
                for member in members:
                    members.extract(_harmless(member, staging), staging, **_FILTER)
            (staging / name).rename(final)
        except OSError as error:
            raise HarnessError(f"cannot write {final}: {error}", hint="is it writable, is there room?") from None
        except (tarfile.TarError, LookupError, ValueError, ArithmeticError, RuntimeError) as error:
            # What tarfile raises for archives that no tar writes.
            raise HarnessError(f"what came for {final} is no good archive: {error}", hint="try it again") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)


# `member` as it may be extracted to `folder`: no device, nothing that is or leads outside, nothing of another user's.
# Links are followed as they lie there by now, so one made by an earlier member is no way out either.
def _harmless(member: tarfile.TarInfo, folder: Path) -> tarfile.TarInfo:
    root = folder.resolve()
    link = PurePosixPath(member.name).parent / member.linkname if member.issym() else PurePosixPath(member.linkname)
    ends = [PurePosixPath(member.name), *([link] if member.issym() or member.islnk() else [])]
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise tarfile.ReadError(f"{member.name} is neither a file, a folder nor a link")
    if any(end.is_absolute() or not (root / end).resolve().is_relative_to(root) for end in ends):
        raise tarfile.ReadError(f"{member.name} leads out of its folder")
    member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
    member.mode = member.mode & 0o755 | (0o700 if member.isdir() else 0o600)
    return member
