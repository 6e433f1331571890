# SPDX-License-Identifier: Apache-2.0
"""Where the debugging information of a run's kernel lies: noted in the run directory when the guest starts, so that a
crash can be decoded then and later. Only a kernel that was built here has any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernloop.kernel.kernel import Kernel

if TYPE_CHECKING:
    from kernloop.report.crash import Crash
    from kernloop.report.symbols import Decoded, Images

__all__ = ["FILE", "decoded", "images_of", "note", "noted", "vmlinux"]

FILE = "symbols.json"


@dataclass(frozen=True)
class _Noted:
    paths: tuple[str, ...]
    source: str | None
    build_id: str
    release: str


def note(run: Path, kernel: Kernel, modules: Sequence[Path] = ()) -> None:
    """Write down for a run where the files of its kernel lie, and modules from elsewhere. The first note counts."""
    if not (run / FILE).exists() and (found := _of(kernel, modules)):
        (run / FILE).write_text(json.dumps(asdict(found), indent=2) + "\n")


def noted(run: Path) -> Images | None:
    """The files that were noted; None when there were none."""
    try:
        value = json.loads((run / FILE).read_text())
        return _images(_Noted(tuple(value["paths"]), value["source"], value["build_id"], value["release"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def vmlinux(run: Path, build_id: str) -> Path | None:
    """The vmlinux with debugging information of what runs in `run`, None where none is known to be of that build."""
    try:
        value = json.loads((run / FILE).read_text())
        path = Path(value["paths"][0])
        return path if value["build_id"] == build_id and path.exists() else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def images_of(kernel: Kernel) -> Images | None:
    """The files of `kernel`; None when it was not built here."""
    found = _of(kernel, ())
    return _images(found) if found else None


def decoded(run: Path, crash: Crash) -> Decoded | None:
    """A crash on the console of the run, decoded; None without debugging information."""
    images = noted(run)
    if images is None:
        return None
    from kernloop.report.symbols import decode

    lines = (run / "console.log").read_bytes().decode(errors="replace").split("\n")
    return decode(crash, lines[crash.start_line - 1 : crash.end_line], images)


def _of(kernel: Kernel, modules: Sequence[Path]) -> _Noted | None:
    if kernel.build is None or not (kernel.build / "vmlinux").exists():
        return None
    paths = (kernel.build / "vmlinux", *modules, kernel.build)
    return _Noted(tuple(map(str, paths)), str(kernel.tree) if kernel.tree else None, kernel.build_id, kernel.release)


def _images(found: _Noted) -> Images:
    # drgn, capstone and pyelftools take 0.1 s to import: only a crash needs them.
    from kernloop.report.symbols import Images

    source = Path(found.source) if found.source else None
    return Images(map(Path, found.paths), source=source, build_id=found.build_id, release=found.release)
