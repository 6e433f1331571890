# SPDX-License-Identifier: Apache-2.0
"""Symbols brought into a GDB, and kept as the guest is: modules come and go, BPF generates code."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

from kernloop.debug.gdb import symbols
from kernloop.debug.gdb.mi import quoted
from kernloop.debug.gdb.process import Gdb, GdbRefused
from kernloop.debug.gdb.symbols import Loaded
from kernloop.errors import UsageError
from kernloop.vm.client import VM

__all__ = ["Loading"]

_SECONDS = 120.0
_INSIDE = Path(__file__).parent / "inside.py"


class Loading:
    """What `gdb` has read of the guest of `vm`; made files go to `folder`."""

    def __init__(self, vm: VM, gdb: Gdb, folder: Path, loaded: Loaded) -> None:
        self._vm = vm
        self._gdb = gdb
        self._folder = folder
        self._files: tuple[Path, ...] = ()
        self._made = 0
        self.loaded = loaded

    @classmethod
    async def of(cls, vm: VM, gdb: Gdb, folder: Path) -> Loading:
        """Look at the guest. Raises HarnessError."""
        for left in folder.glob("names*.elf"):
            left.unlink()  # an earlier session's
        return cls(vm, gdb, folder, await asyncio.to_thread(symbols.find, vm, folder, folder / "names0.elf"))

    async def begin(self) -> None:
        """Before the target is connected."""
        await self._gdb.console(f"source {_INSIDE}")
        await self._image()
        await self._code()

    async def attached(self) -> None:
        """The kernel's own commands ask the target as soon as they are loaded."""
        if self.loaded.scripts is not None:
            with contextlib.suppress(GdbRefused):
                await self._gdb.console(f"source {self.loaded.scripts}")

    async def look(self, files: tuple[Path, ...]) -> Loaded:
        """What the guest has now, `files` among it from now on. Raises UsageError, HarnessError."""
        if missing := next((file for file in files if not file.is_file()), None):
            raise UsageError(f"there is no file {missing}", hint="give .ko files as they were loaded, or a vmlinux")
        self._made += 1
        names = self._folder / f"names{self._made}.elf"
        try:
            now = await asyncio.to_thread(symbols.find, self._vm, self._folder, names, (*self._files, *files))
        except UsageError:
            # A file that was given once may be of a module that is gone.
            now = await asyncio.to_thread(symbols.find, self._vm, self._folder, names, files)
            self._files = ()
        self._files = (*self._files, *(file for file in files if file not in self._files))
        before = self.loaded.names
        if now.names and before and now.names.read_bytes() == before.read_bytes():
            now.names.unlink()
            now = replace(now, names=before)
        return now

    async def take(self, now: Loaded) -> None:
        """Make GDB know it; the guest stands still meanwhile."""
        before, self.loaded = self.loaded, now
        if before.names is not None and before.names != now.names:
            await self._gdb.console(f"remove-symbol-file {_word(before.names)}")
            before.names.unlink()
        for module in before.modules:
            if module not in now.modules and module.path is not None and module.sections:
                await self._gdb.console(f"remove-symbol-file -a {module.sections[0][1]:#x}")
        if now.file != before.file:
            await self._image()
            await self.attached()
        await self._code(before)

    async def _image(self) -> None:
        # The file's own commands are not loaded by themselves (auto-load safe-path); ours are named.
        loaded = self.loaded
        await self._gdb.console(f"symbol-file {_word(loaded.file)} -o {loaded.offset:#x}", seconds=_SECONDS)
        if loaded.source is not None:
            await self._gdb.console(f"directory {_word(loaded.source)}")

    # What was not there `before`, and what is needed to unwind.
    async def _code(self, before: Loaded | None = None) -> None:
        loaded = self.loaded
        for module in loaded.modules:
            if not (before and module in before.modules) and module.path is not None and module.sections:
                places = " ".join(f"-s {name} {at:#x}" for name, at in module.sections)
                await self._gdb.console(f"add-symbol-file {_word(module.path)} {places}", seconds=_SECONDS)
        if loaded.names is not None and not (before and before.names == loaded.names):
            await self._gdb.console(f"add-symbol-file {_word(loaded.names)}")
        tables = [module.orc for module in loaded.modules]
        await self._gdb.console(f"python kernloop_code({not loaded.dwarf}, {tables})")


# As one word for GDB's own commands (gdb_buildargv() of libiberty).
def _word(path: Path) -> str:
    return quoted(str(path))
