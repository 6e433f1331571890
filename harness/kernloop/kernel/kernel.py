# SPDX-License-Identifier: Apache-2.0
"""A Kernel: an image that can be booted, and the facts that other rooms ask it for."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.kernel import dotconfig

__all__ = ["FACTS", "Kernel", "KernelSource", "load", "store"]

# The symbols that decide which parts of kernloop can work with a kernel.
FACTS = (
    "SCHED_CLASS_EXT",
    "DEBUG_INFO_BTF",
    "BPF_JIT",
    "CGROUP_SCHED",
    "EXT_GROUP_SCHED",
    "KGDB",
    "KGDB_SERIAL_CONSOLE",
    "MAGIC_SYSRQ",
    "MAGIC_SYSRQ_SERIAL",
    "PSTORE",
    "PSTORE_RAM",
    "KEXEC",
    "CRASH_DUMP",
    "VMCORE_INFO",
    "LKDTM",
    "KASAN",
    "PROVE_LOCKING",
    "KUNIT",
    "FTRACE",
    "KPROBES",
    "IKCONFIG",
    "MODULES",
    "MODULE_DECOMPRESS",
    "RANDOMIZE_BASE",
    "UNWINDER_ORC",
    "VIRTIO_PCI",
    "VIRTIO_CONSOLE",
    "VIRTIO_BLK",
    "VIRTIO_FS",
    "OVERLAY_FS",
    "PVPANIC_PCI",
    "DETECT_HUNG_TASK",
    "SOFTLOCKUP_DETECTOR",
)


@dataclass(frozen=True)
class KernelSource:
    """The Debian source package that a kernel was built from: name and version of the binary linux-source that fits."""

    package: str
    version: str
    exact: bool


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel on this machine.

    `image` is the bzImage, `digest` its sha256, `vmlinux` the ELF in it if that can be booted by PVH, which spares the
    guest the unpacking (1.7 s of the boot under TCG), `modules` the folder that holds `kernel/` and modules.builtin
    (None when there are none), `config_path` None when nobody knows the config. `build` is the folder where it was
    built from `tree`: the vmlinux with all symbols, headers for modules.
    """

    ref: str
    release: str
    banner: str
    build_id: str
    digest: str
    image: Path
    vmlinux: Path | None
    modules: Path | None
    btf: Path | None
    config_path: Path | None
    source_version: str | None
    tree: Path | None = None
    build: Path | None = None

    @cached_property
    def config(self) -> dict[str, str] | None:
        """CONFIG_ symbols without the prefix; one that is off is not in it. None when the config is not known."""
        if self.config_path is None:
            return None
        return dotconfig.symbols(self.config_path.read_text())

    def has(self, symbol: str) -> bool | None:
        """Whether `symbol` is y or m; None when the config is not known."""
        return None if self.config is None else self.config.get(symbol, "n") in ("y", "m")

    @property
    def bootable(self) -> Path:
        """What to give to QEMU's -kernel.

        Generic KASAN has no shadow yet where PVH begins: arch/x86/platform/pvh/enlighten.c is not instrumented, but the
        memcmp() that it calls is, and the machine resets without a word.
        """
        return self.image if self.has("KASAN_GENERIC") or self.vmlinux is None else self.vmlinux

    @property
    def has_sched_ext(self) -> bool | None:
        """From the config; where that is not known, from the type `sched_ext_ops` in BTF."""
        known = self.has("SCHED_CLASS_EXT")
        if known is None and self.btf is not None:
            return b"\0sched_ext_ops\0" in self.btf.read_bytes()
        return known

    def module(self, name: str) -> bytes | None:
        """The ELF of module `name` (underscores), unpacked; None when it is not a module of this kernel."""
        path = self._module_files.get(name)
        if path is None:
            return None
        data = path.read_bytes()
        match path.suffix:
            case ".xz":
                return lzma.decompress(data)
            case ".zst":
                import zstandard  # Debian's modules are .xz: most runs do without

                return zstandard.ZstdDecompressor().decompressobj().decompress(data)
            case ".gz":
                return gzip.decompress(data)
        return data

    @property
    def module_names(self) -> list[str]:
        """What `module` knows."""
        return sorted(self._module_files)

    @cached_property
    def _module_files(self) -> dict[str, Path]:
        files = self.modules.rglob("*.ko*") if self.modules else ()
        return {file.name.partition(".ko")[0].replace("-", "_"): file for file in files}


def store(
    folder: Path,
    *,
    ref: str,
    bzimage: Path,
    modules: Path | None,
    config: Path | None,
    source_version: str | None,
    tree: Path | None = None,
    build: Path | None = None,
) -> None:
    """Read `bzimage` and write what it says to `folder`: kernel.json, btf, config, vmlinux. Paths may lie in it."""
    # What reads images takes 60 ms to import, and only a kernel that is new here is read.
    from kernloop.kernel import image

    facts = image.read(bzimage)
    if facts.btf is not None:
        (folder / "btf").write_bytes(facts.btf)
    if facts.has_pvh:
        (folder / "vmlinux").write_bytes(facts.vmlinux)
    if config is not None:
        (folder / "config").write_bytes(config.read_bytes())
    elif facts.ikconfig is not None:
        (folder / "config").write_text(facts.ikconfig)
    about = _Stored(
        ref,
        facts.release,
        facts.banner,
        facts.build_id,
        hashlib.sha256(bzimage.read_bytes()).hexdigest(),
        _inside(bzimage, folder),
        _inside(modules, folder) if modules else None,
        source_version,
        str(tree) if tree else None,
        str(build) if build else None,
    )
    (folder / "kernel.json").write_text(json.dumps(asdict(about), indent=2) + "\n")


def load(folder: Path) -> Kernel:
    """The kernel that `store` described in `folder`. Raises HarnessError when it is damaged."""
    try:
        about = _Stored(**json.loads((folder / "kernel.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise HarnessError(f"the cached kernel in {folder} is damaged", hint=f"remove it: rm -r {folder}") from None
    bzimage = folder / about.image
    if not bzimage.exists():
        raise HarnessError(f"the kernel image {bzimage} is gone", hint=f"remove what is left: rm -r {folder}")
    return Kernel(
        about.ref,
        about.release,
        about.banner,
        about.build_id,
        about.digest,
        bzimage,
        _if_there(folder / "vmlinux"),
        folder / about.modules if about.modules else None,
        _if_there(folder / "btf"),
        _if_there(folder / "config"),
        about.source_version,
        Path(about.tree) if about.tree else None,
        Path(about.build) if about.build else None,
    )


# What kernel.json holds; `image` and `modules` are relative to the folder, or absolute when they lie outside it.
@dataclass(frozen=True)
class _Stored:
    ref: str
    release: str
    banner: str
    build_id: str
    digest: str
    image: str
    modules: str | None
    source_version: str | None
    tree: str | None = None
    build: str | None = None


def _inside(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.resolve())


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None
