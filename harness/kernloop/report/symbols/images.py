# SPDX-License-Identifier: Apache-2.0
"""The files that a kernel consists of: its vmlinux, its modules, its source; opened when a report names them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from .dwarf import Dwarf
from .elf import Image, NotAnImage

__all__ = ["Images"]

# Far enough apart for the largest module (amdgpu with all its debugging information: 400 MB, 30 MB of it loaded).
_MODULES_FROM, _MODULE_ROOM = 0xFFFFFFFFC0000000, 0x1000000
# Beyond so many modules in one report the rest stays undecoded: that is all the room below the end of addresses.
_MAX_MODULES = 60


class Images:
    """`paths` are a vmlinux, modules (.ko, or .ko.debug), folders of modules, a build folder. Nothing is read yet.

    `source` is the tree where it is known; else DWARF's own paths are tried. `build_id` and `release` are those of the
    kernel that ran, where they are known.
    """

    def __init__(
        self, paths: Iterable[Path], *, source: Path | None = None, build_id: str = "", release: str = ""
    ) -> None:
        self.paths = tuple(paths)
        self.source = source
        self.build_id = build_id
        self.release = release
        self.problems: list[str] = []
        self._opened: dict[str, Image | None] = {}
        self._dwarf: Dwarf | None = None

    @cached_property
    def vmlinux(self) -> Image | None:
        """The kernel's own ELF file; None when none was given, or it is not one (`problems`)."""
        for path in self.paths:
            file = path / "vmlinux" if path.is_dir() else path
            if ".ko" in file.name or (path.is_dir() and not file.exists()):
                continue
            image = self._open(file, _MODULES_FROM)
            if image and not image.is_module:
                return image
        return None

    def module(self, name: str) -> Image | None:
        """The module that the kernel calls `name` (with underscores)."""
        if name not in self._opened:
            path = self._module_files.get(name)
            room = _MODULES_FROM + (1 + len(self._opened)) * _MODULE_ROOM
            usable = path is not None and len(self._opened) < _MAX_MODULES
            self._opened[name] = self._open(path, room) if path is not None and usable else None
        return self._opened[name]

    def module_file(self, name: str) -> Path | None:
        """Where the file of the module lies that the kernel calls `name`."""
        return self._module_files.get(name)

    @property
    def images(self) -> list[Image]:
        """Those that are open."""
        modules = [image for image in self._opened.values() if image]
        return [self.vmlinux, *modules] if self.vmlinux else modules

    def dwarf(self) -> Dwarf:
        """The debugging information of those that are open."""
        if self._dwarf is None or list(self._dwarf.images) != self.images:
            self._dwarf = Dwarf(self.images)
        return self._dwarf

    # A build folder names its modules in modules.order (as .o since 6.2), which spares a walk through 50,000 files.
    @cached_property
    def _module_files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in self.paths:
            if path.is_dir():
                try:
                    listed = (path / "modules.order").read_text().split()
                    files = [(path / name).with_suffix(".ko") for name in listed]
                    files = [file for file in files if file.exists()]
                except OSError:
                    files = []
                files = files or [*path.rglob("*.ko"), *path.rglob("*.ko.debug")]
            else:
                files = [path] if ".ko" in path.name else []
            for file in files:
                found.setdefault(file.name.partition(".ko")[0].replace("-", "_"), file)
        return found

    def _open(self, path: Path, base: int) -> Image | None:
        try:
            return Image(path, base)
        except NotAnImage as error:
            self.problems.append(str(error))
            return None
