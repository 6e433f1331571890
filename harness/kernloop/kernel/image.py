# SPDX-License-Identifier: Apache-2.0
"""Read an x86 bzImage: the vmlinux packed in it, and from that the release, the build-id and the BTF.

The header fields are those of Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import io
import lzma
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kernloop.errors import UsageError
from kernloop.kernel.notes import build_id_of_notes, note

# What the readers of its parts say to an image that is cut off or overwritten.
_DAMAGE = (struct.error, zlib.error, lzma.LZMAError, zstandard.ZstdError, ELFError, EOFError, IndexError)

__all__ = ["Image", "read"]

_MAGIC = b"HdrS"
_LZ4 = b"\x02\x21\x4c\x18"
# include/xen/interface/elfnote.h; QEMU starts an ELF kernel that has it by the PVH protocol.
_XEN_ELFNOTE_PHYS32_ENTRY = 18


@dataclass(frozen=True)
class Image:
    """What a bzImage says of itself. `banner` is `RELEASE (BUILDER) #N ...`; `ikconfig` is None without IKCONFIG.

    `vmlinux` is the ELF that was packed in it; `has_pvh` says that a machine monitor can start that directly.
    """

    release: str
    banner: str
    build_id: str
    btf: bytes | None
    ikconfig: str | None
    vmlinux: bytes
    has_pvh: bool


def read(path: Path) -> Image:
    """Raises UsageError when `path` is no bzImage that can be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the kernel image {path}: {error.strerror}",
            hint="path: takes a bzImage, arch/x86/boot/bzImage in a built tree",
        ) from None
    if data[0x202:0x206] != _MAGIC:
        what = "an ELF file (a vmlinux?)" if data[:4] == b"\x7fELF" else "no x86 bzImage"
        raise UsageError(f"{path} is {what}", hint="path: takes a bzImage, arch/x86/boot/bzImage in a built tree")
    try:
        return _parse(path, data)
    except _DAMAGE as error:
        raise UsageError(
            f"{path} is damaged: {error or type(error).__name__}", hint="build or fetch it again; is it all there?"
        ) from None


def _parse(path: Path, data: bytes) -> Image:
    version_at = struct.unpack_from("<H", data, 0x20E)[0] + 0x200
    banner = data[version_at : version_at + 512].split(b"\0")[0].decode(errors="replace")
    vmlinux = _unpack(path, data)
    elf = ELFFile(io.BytesIO(vmlinux))
    notes, btf = elf.get_section_by_name(".notes"), elf.get_section_by_name(".BTF")
    return Image(
        release=banner.split(" ")[0],
        banner=banner,
        build_id=build_id_of_notes(notes.data()) if notes else "",
        btf=btf.data() if btf else None,
        ikconfig=_ikconfig(vmlinux),
        vmlinux=vmlinux,
        has_pvh=notes is not None and note(notes.data(), b"Xen\0", _XEN_ELFNOTE_PHYS32_ENTRY) is not None,
    )


def _unpack(path: Path, data: bytes) -> bytes:
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = data[start : start + length]
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload[:4] == _LZ4:
        return _unlz4(payload)
    if payload[:3] == b"\x5d\0\0":
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)
    raise UsageError(
        f"{path}: its kernel is packed in a way that is not known here (first bytes {payload[:4].hex()})",
        hint="build it with CONFIG_KERNEL_ZSTD, _XZ, _LZMA, _LZ4 or _GZIP",
    )


# `lz4 -l` (lib/decompress_unlz4.c): blocks of 8 MiB, each behind its packed size; the last four bytes are the size.
def _unlz4(payload: bytes) -> bytes:
    import lz4.block

    parts, at = [], 4
    while at + 4 < len(payload):
        size = struct.unpack_from("<I", payload, at)[0]
        parts.append(lz4.block.decompress(payload[at + 4 : at + 4 + size], uncompressed_size=8 << 20))
        at += 4 + size
    return b"".join(parts)


# kernel/configs.c puts the gzipped .config between these marks.
def _ikconfig(vmlinux: bytes) -> str | None:
    match = re.search(rb"IKCFG_ST(\x1f\x8b.*?)IKCFG_ED", vmlinux, re.S)
    return zlib.decompressobj(wbits=31).decompress(match[1]).decode(errors="replace") if match else None
