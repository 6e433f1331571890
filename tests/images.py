# SPDX-License-Identifier: Apache-2.0
"""Kernel images made by the tests: bzImages as Documentation/arch/x86/boot.rst lays them out, with a tiny vmlinux."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import zstandard

BUILD_ID = bytes(range(20))
BANNER = "7.3.4-test (builder@host) #1 SMP"
CONFIG = "CONFIG_SCHED_CLASS_EXT=y\nCONFIG_MODULES=m\n# CONFIG_KASAN is not set\nCONFIG_HZ=250\n"


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """One ELF note."""

    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 4)

    return struct.pack("<III", len(owner), len(data), kind) + padded(owner) + padded(data)


NOTES = note(b"Xen\0", 6, b"linux\0") + note(b"GNU\0", 3, BUILD_ID)
PVH = note(b"Xen\0", 18, struct.pack("<Q", 0x1000000))


def elf(sections: dict[str, bytes], *, machine: int = 62, kind: int = 2) -> bytes:
    """A little-endian ELF64 file with these sections and no program headers; `machine` 62 is x86-64, 247 BPF."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    bodies = [*sections.values(), names]
    offsets, at = [], 64
    for body in bodies:
        offsets.append(at)
        at += len(body)
    headers = bytes(64)
    for name, body, offset in zip((*sections, ".shstrtab"), bodies, offsets, strict=True):
        type_ = 3 if name == ".shstrtab" else 7 if name == ".notes" else 1
        headers += struct.pack(
            "<IIQQQQIIQQ", names.index(name.encode() + b"\0"), type_, 0, 0, offset, len(body), 0, 0, 4, 0
        )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(bodies) + 1
    header = ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 0, at, 0, 64, 0, 0, 64, count, count - 1)
    return header + b"".join(bodies) + headers


def vmlinux(*, notes: bytes = NOTES, btf: bytes | None = b"btf-bytes", config: str | None = CONFIG) -> bytes:
    """The ELF inside an image; with `config` as CONFIG_IKCONFIG embeds it."""
    data = b"" if config is None else b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    sections = {".notes": notes, ".rodata": data, **({".BTF": btf} if btf is not None else {})}
    return elf(sections)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def bzimage(payload: bytes, *, banner: str = BANNER, setup_sectors: int = 4) -> bytes:
    """An image that carries `payload`, followed by what the packers of real builds append: the unpacked size."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    version_at = 0x400
    struct.pack_into("<H", setup, 0x20E, version_at - 0x200)
    text = banner.encode() + b"\0"
    setup[version_at : version_at + len(text)] = text
    code = b"\x90" * 640
    struct.pack_into("<II", setup, 0x248, len(code), len(payload) + 4)
    return bytes(setup) + code + payload + struct.pack("<I", 12345) + b"\xcc" * 64
