# SPDX-License-Identifier: Apache-2.0
"""The micro-VM's root: busybox, our init, the modules it must load, and what the caller adds, as one cpio archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.host import process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir
from kernloop.kernel.kernel import Kernel
from kernloop.vm import cpio, guest_programs

__all__ = ["Payload", "host_root", "image", "payload"]

# In the order of loading. virtio_console is what everything else talks through; pvpanic reports a panic to QEMU;
# qemu_fw_cfg tells it where the kernel's vmcoreinfo is, which dumps carry; i6300esb drives QEMU's watchdog.
_MODULES = (
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "pvpanic",
    "pvpanic_pci",
    "qemu_fw_cfg",
    "watchdog",
    "i6300esb",
)
# What a guest needs beside to have the host's user space as its root.
_HOST_ROOT_MODULES = ("fuse", "virtiofs", "overlay")
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "etc", "mnt", "var/run", "lib/modules")


@dataclass(frozen=True)
class Payload:
    """A file for the guest: its bytes lie at `host`, it appears at `guest` with the host's mode."""

    host: Path
    guest: str


def image(kernel: Kernel, files: Sequence[Payload] = ()) -> Path:
    """The archive that guests of `kernel` boot with, in the cache, with `files` and their libraries in it.

    Raises SubjectError when no agent could talk from such a guest.
    """
    inputs = hashlib.sha256()
    for word in (kernel.digest, guest_programs.init().parent.name, toolset.get().id, *(file.guest for file in files)):
        inputs.update(word.encode() + b"\0")
    recipe = (Path(__file__), Path(cpio.__file__), *(file.host for file in files))
    for path in (*recipe, kernel.config_path) if kernel.config_path else recipe:
        inputs.update(hashlib.sha256(path.read_bytes()).digest())
    folder = cache_dir() / "initramfs" / inputs.hexdigest()[:24]

    def make(staging: Path) -> None:
        data = _base(kernel) + (payload(files) if files else b"")
        (staging / "initramfs").write_bytes(data)

    return ensure(folder, make, what="making the initramfs") / "initramfs"


def _base(kernel: Kernel) -> bytes:
    entries = [
        cpio.regular("init", guest_programs.init().read_bytes(), 0o755),
        cpio.device("dev/console", 5, 1),
        cpio.regular("bin/busybox", toolset.get().busybox.read_bytes(), 0o755),
        cpio.regular("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        cpio.regular("etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
        cpio.regular("etc/hosts", b"127.0.0.1 localhost kernloop\n"),
        *(cpio.directory(folder) for folder in _FOLDERS),
        *(cpio.symlink(f"bin/{applet}", "busybox") for applet in _applets() if applet != "busybox"),
        *_modules(kernel, _MODULES),
    ]
    # libbpf reads the target's config from here when the kernel has no /proc/config.gz (__kconfig externs).
    if kernel.config_path is not None:
        entries.append(cpio.regular(f"boot/config-{kernel.release}", kernel.config_path.read_bytes()))
    return cpio.archive(entries)


def host_root(kernel: Kernel) -> bytes:
    """The archive with which a guest of `kernel` goes over to the host's user space: our init and modules, no more.

    Raises SubjectError when the kernel cannot do that.
    """
    for symbol in ("VIRTIO_FS", "OVERLAY_FS"):
        if kernel.has(symbol) is False:
            raise SubjectError(
                f"{kernel.ref} has no CONFIG_{symbol}, so it cannot share the host's user space",
                hint="build it with CONFIG_VIRTIO_FS and CONFIG_OVERLAY_FS, or use --backend micro",
            )
    return cpio.archive(
        [
            cpio.regular("init", guest_programs.init().read_bytes(), 0o755),
            cpio.device("dev/console", 5, 1),
            *_modules(kernel, (*_MODULES, *_HOST_ROOT_MODULES)),
        ]
    )


def payload(files: Sequence[Payload], *, extra: Iterable[cpio.Entry] = ()) -> bytes:
    """An archive to append to a base: `files` with the libraries that they need, and `extra` entries.

    Raises UsageError for a file that is not there or lacks a library.
    """
    from kernloop.host import elf  # pyelftools takes 60 ms to import, and most guests take no files along

    entries: dict[str, cpio.Entry] = {}
    for file in files:
        entries[file.guest.strip("/")] = _read(file.host, file.guest)
        for library in elf.closure(file.host):
            entries.setdefault(str(library).strip("/"), _read(library, str(library)))
    return cpio.archive([*entries.values(), *extra])


def _read(host: Path, guest: str) -> cpio.Entry:
    try:
        return cpio.regular(guest.strip("/"), host.read_bytes(), 0o755 if os.access(host, os.X_OK) else 0o644)
    except IsADirectoryError:
        raise UsageError(f"{host} is a folder", hint="give files; pack a folder with tar first") from None
    except OSError as error:
        raise UsageError(f"cannot read {host}: {error.strerror}", hint="name files that are there") from None


def _modules(kernel: Kernel, names: Sequence[str]) -> list[cpio.Entry]:
    found = []
    for number, name in enumerate(names):
        data = kernel.module(name)
        if data is not None:
            found.append(cpio.regular(f"kl/modules/{number:02d}-{name}.ko", data))
        elif name == "virtio_console" and kernel.has("VIRTIO_CONSOLE") is False:
            raise SubjectError(
                f"{kernel.ref} has no virtio console, so a guest of it cannot be talked to",
                hint="build it with CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE",
            )
    return found


@cache
def _applets() -> tuple[str, ...]:
    listing = process.run([toolset.get().busybox, "--list"], seconds=10, what="asking busybox for its applets").stdout
    applets = tuple(listing.split())
    if "sh" not in applets:
        raise HarnessError("busybox has no sh", hint="kernloop doctor --fix")
    return applets
