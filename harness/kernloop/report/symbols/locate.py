# SPDX-License-Identifier: Apache-2.0
"""From `function+0x10/0x80 [module]` to an address in the ELF file, or why there is none. Nothing is guessed.

Where a kernel or a module was loaded does not matter: an offset into a function is the same under KASLR. A bare address
is used only when the report tells how far the kernel was moved ("Kernel Offset", or addresses beside symbols).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .elf import Image, Symbol
from .images import Images
from .printed import Trace, TraceFrame
from .values import is_null

__all__ = ["Located", "Locator"]

# Room that the linker leaves behind a section's last function, up to the end of its page.
_PAGE = 0x1000


@dataclass(frozen=True)
class Located:
    """Where a frame is: the `address` of the instruction that is meant, in the function that begins at `start`."""

    image: Image
    start: int
    address: int
    symbol: Symbol


class Locator:
    """Looks up the frames of one report; `reasons` collects what concerns the files as a whole."""

    def __init__(self, images: Images, trace: Trace, code: bytes = b"", before: int = 0) -> None:
        self._images = images
        self._trace = trace
        # The bytes of the Code: line and how many of them stand before the marked one tell namesakes apart.
        self._code, self._before = code, before
        self.reasons: list[str] = []
        self._unfit: set[int] = set()
        self._check_vmlinux()
        self.shift = trace.shift if trace.shift is not None else self._derived_shift()

    def locate(self, frame: TraceFrame) -> Located | str:
        """Where the frame is, or in words why that is not known."""
        if not frame.function:
            return self._bare(frame)
        image = self._image(frame)
        if isinstance(image, str):
            return image
        symbols = self._candidates(image, frame)
        if isinstance(symbols, str):
            return symbols
        if len(symbols) > 1 and frame == self._trace.pointer:
            symbols = [s for s in symbols if self._code_fits(s.address + (frame.offset or 0), image)] or symbols
        if len(symbols) > 1:
            return f"{len(symbols)} functions are called {frame.function}, {frame.size:#x} bytes each"
        symbol = symbols[0]
        address = symbol.address + (frame.offset or 0)
        # The return address may be that of the next function, when the call never returns.
        if not frame.exact and frame.offset:
            address -= 1
        return Located(image, symbol.address, address, symbol)

    def _check_vmlinux(self) -> None:
        image = self._images.vmlinux
        if image is None:
            return
        ran = self._images.build_id or self._trace.build_id
        if ran and image.build_id and ran != image.build_id:
            self._refuse(
                image, f"{image.path} is another build: its build-id is {image.build_id}, of the kernel that ran {ran}"
            )
            return
        release = self._trace.release or self._images.release
        if not ran and release and not image.contains(f"Linux version {release} ".encode()):
            self._refuse(image, f"{image.path} is another kernel: no Linux {release}, which is the one that ran")
            return
        if not image.has_symbols:
            self._refuse(image, f"{image.path} has no symbols: give the vmlinux of the build folder, not a packed one")
            return
        if not ran:
            self._check_functions(image)

    # Nobody says which build ran: then each function of the trace must be there, and be of its size.
    def _check_functions(self, image: Image) -> None:
        for frame in self._trace.frames:
            # Programs of BPF have symbols that no file has.
            if not frame.function or frame.module or not frame.reliable or frame.function.startswith("bpf_"):
                continue
            if isinstance(self._candidates(image, frame), str):
                there = image.find(frame.function)
                what = f"{_sizes(there)} bytes here, {frame.size:#x} where the crash was" if there else "not here"
                self._refuse(image, f"{image.path} is another build: {frame.function} is {what}")
                return

    def _refuse(self, image: Image, why: str) -> None:
        self._unfit.add(id(image))
        self.reasons.append(why)

    def _image(self, frame: TraceFrame) -> Image | str:
        if frame.module is None:
            image = self._images.vmlinux
            if image is None:
                return "no vmlinux"
            return image if id(image) not in self._unfit else "vmlinux is of another kernel"
        module = self._images.module(frame.module)
        if module is None:
            return f"no file of module {frame.module}"
        ran = frame.build_id or self._trace.modules.get(frame.module, "")
        if ran and module.build_id and ran != module.build_id:
            return f"{module.path} is another build of the module: its build-id is {module.build_id}, not {ran}"
        return module

    def _candidates(self, image: Image, frame: TraceFrame) -> list[Symbol] | str:
        symbols = image.find(frame.function)
        if not symbols:
            return f"no function {frame.function} in {image.path.name}"
        fitting = [s for s in symbols if _fits(s, frame)]
        if not fitting:
            return (
                f"{frame.function} is {frame.size:#x} bytes long where the crash was, {_sizes(symbols)} in"
                f" {image.path.name}: another build"
            )
        # One function may have two symbols at one address.
        return list({s.address: s for s in fitting}.values())

    def _code_fits(self, address: int, image: Image) -> bool:
        if not self._code:
            return True
        there = image.read(address - self._before, len(self._code))
        same = sum(a == b for a, b in zip(there, self._code, strict=False))
        return same * 2 >= len(self._code)

    # Kernels before 4.15, and those whose addresses are not hashed, print the address beside the symbol.
    def _derived_shift(self) -> int | None:
        image = self._images.vmlinux
        if image is None or id(image) in self._unfit:
            return None
        shifts: Counter[int] = Counter()
        for frame in self._trace.frames:
            if frame.address is not None and frame.function and not frame.module:
                symbols = self._candidates(image, frame)
                if not isinstance(symbols, str) and len(symbols) == 1:
                    shifts[frame.address - symbols[0].address - (frame.offset or 0)] += 1
        return next(iter(shifts)) if len(shifts) == 1 else None

    def _bare(self, frame: TraceFrame) -> Located | str:
        image = self._images.vmlinux
        if frame.address is not None and is_null(frame.address):
            return "no code is there"
        if image is None or id(image) in self._unfit or frame.address is None:
            return "no vmlinux"
        if self.shift is None:
            return "a bare address, and the report does not say how far the kernel was moved (Kernel Offset)"
        address = frame.address - self.shift
        symbol = image.at(address if frame.exact else address - 1)
        if symbol is None or not symbol.section.executable:
            return "not in vmlinux: a module's, or a program's that was made at run time"
        return Located(image, symbol.address, address if frame.exact else address - 1, symbol)


# Behind a section's last function comes padding, or what the kernel loads behind it.
def _fits(symbol: Symbol, frame: TraceFrame) -> bool:
    if frame.size is None:
        return True
    if symbol.last:
        return symbol.elf_size <= frame.size and frame.size - symbol.size < 16 * _PAGE
    return symbol.size == frame.size


def _sizes(symbols: list[Symbol]) -> str:
    sizes = sorted({symbol.size for symbol in symbols})
    return " or ".join(f"{size:#x}" for size in sizes[:3])
