# SPDX-License-Identifier: Apache-2.0
"""Guests with the host's user space as their root, as virtme-ng makes them, but started and ended by us.

The devices and kernel words that virtme-ng chooses stay; console, monitor, accelerator and init become ours. Its own
init needs udevd and bash of the host and reports by exit code only, so ours takes its place (guest/hostroot.c) and
reads the words that it would read.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import bundle, owned, process, toolset
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir
from kernloop.kernel.kernel import Kernel
from kernloop.vm import initramfs, virtme
from kernloop.vm.argv import Channels, MachineSpec, Start, attachments, handed_over, kernel_words
from kernloop.vm.share import Share

__all__ = ["HostRoot", "host_root", "qemu_argv", "virtiofsd_argv"]


_VIRTIOFSD = bundle.Bundle("virtiofsd", ("virtiofsd",), ("usr/libexec/virtiofsd",))
_GUESTS_OWN = ("/proc", "/sys", "/dev", "/run")


@dataclass(frozen=True)
class HostRoot:
    """What `machine.start` takes: the argv maker, and the descriptors that the argv names."""

    qemu: Path
    spec: MachineSpec
    kernel: Kernel
    start: Start
    said: virtme.Said
    share: Share
    modules: Path | None
    sockets: Mapping[str, int]

    @property
    def inherit(self) -> tuple[int, ...]:
        return tuple(self.sockets.values())

    def argv(self, channels: Channels) -> list[str]:
        words = [f"virtme_initmount0={self.share.folder}"]
        if self.modules is not None:
            words.append(f"virtme_link_mods={self.modules}")
        bootable = self.kernel.image if self.spec.kaslr else self.kernel.bootable
        return qemu_argv(self.said, self.sockets, words, self.qemu, self.spec, bootable, self.start, channels)


@contextlib.contextmanager
def host_root(
    qemu: Path, spec: MachineSpec, kernel: Kernel, share: Share, run: Path, *, payload: Path | None = None
) -> Iterator[HostRoot]:
    """Share the host's root and `share` for a guest that is booted inside the block and given `payload` by fw_cfg.

    What virtiofsd says goes to `run`/virtiofsd.stderr. Raises UsageError, SubjectError, HarnessError.
    """
    _check(spec, share)
    archive = initramfs.host_root(kernel)
    daemon = bundle.get(_VIRTIOFSD) / "virtiofsd"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernloop-vng-")))
        stack.enter_context(owned.folder(folder))
        said = virtme.ask(qemu, spec, kernel, folder, writable=share.writable)
        image = folder / "initramfs"
        image.write_bytes(archive)
        stderr = stack.enter_context((run / "virtiofsd.stderr").open("wb"))
        sockets = {}
        for number, (name, words) in enumerate(said.daemons.items()):
            theirs, ours = _connected(folder / f"s{number}")
            stack.callback(ours.close)
            with theirs:
                started = process.spawn(
                    virtiofsd_argv(daemon, words, theirs.fileno(), share),
                    stdin=subprocess.DEVNULL,
                    stdout=stderr.fileno(),
                    stderr=stderr.fileno(),
                    pass_fds=[theirs.fileno()],
                )
            stack.callback(process.end_group, started)
            stack.enter_context(owned.group(started.pid))
            sockets[name] = ours.fileno()
        begin = Start(initramfs=image, payload=payload)
        yield HostRoot(qemu, spec, kernel, begin, said, share, _module_tree(kernel), sockets)


def qemu_argv(
    said: virtme.Said,
    sockets: Mapping[str, int],
    words: Sequence[str],
    qemu: Path,
    spec: MachineSpec,
    kernel: Path,
    start: Start,
    channels: Channels,
) -> list[str]:
    """virtme-ng's argv made ours. `sockets` are descriptors by the path they stand for, `words` more for the kernel."""
    argv = [str(qemu), "-nodefaults", "-no-user-config", "-no-reboot"]
    kvm = spec.accelerator == "kvm"
    argv += ["-accel", "kvm" if kvm else "tcg,thread=single"]
    for option, value in virtme.options(said.qemu[1:]):
        if option == "-append":
            own = [*_kept_kernel_words(value), "kernloop_root=ROOTFS", *words]
            argv += [option, " ".join([*(_quote(word) for word in own), kernel_words(spec)])]
        elif option == "-kernel":
            argv += [option, str(kernel), "-initrd", str(start.initramfs)]
        elif option == "-cpu":
            argv += [option, "host" if kvm else value]
        elif not _is_terminal(option, value):
            argv += [option, *([_by_descriptor(value, sockets)] if value else [])]
    return [*argv, *handed_over(start), *attachments(channels, watchdog=True)]


def virtiofsd_argv(daemon: Path, words: Sequence[str], listener: int, share: Share) -> list[str]:
    """virtme-ng's arguments for a virtiofsd made ours: an inherited socket, and files that may change under it.

    The root keeps `--cache always`: with `auto` a Python starts in 5 s of CPU time under TCG instead of 1. In the
    caller's folder even `auto` is too much: for a second a guest sees an edited file cut to its old length. File
    handles (root only, others do without) spare a descriptor for every file seen: `find /` may need too many.
    """
    given = dict(virtme.options(words))
    given.pop("--syslog")
    given.pop("--socket-path")
    given |= {"--fd": str(listener), "--inode-file-handles": "prefer"}
    if given["--shared-dir"] != "/":
        given |= {"--shared-dir": str(share.folder), "--cache": "never", "--allow-mmap": ""}
    return [str(daemon), *(f"{option}={value}" if value else option for option, value in given.items())]


def _check(spec: MachineSpec, share: Share) -> None:
    if spec.virtual_time is not None:
        raise UsageError(
            "virtual time cannot be had with the host's files: when they are read is the host's affair",
            hint="use --backend micro",
        )
    folder = str(share.folder)
    if '"' in folder or not folder.isprintable():
        raise UsageError(f"{folder!r} cannot be named to a kernel", hint="work in a folder with a plainer name")
    if folder == "/" or any(share.folder.is_relative_to(own) for own in _GUESTS_OWN):
        raise UsageError(
            f"{folder} cannot be shared: a guest has its own /proc, /sys, /dev and /run", hint="cd into your project"
        )


# A folder in which modprobe finds its way. Debian's packages come without modules.dep: installing them would make it.
def _module_tree(kernel: Kernel) -> Path | None:
    if kernel.modules is None or (kernel.modules / "modules.dep").exists():
        return kernel.modules
    source, inside = kernel.modules, Path("lib/modules") / kernel.release

    def make(staging: Path) -> None:
        shutil.copytree(source, staging / inside, copy_function=_link_or_copy)
        words = (str(toolset.get().busybox), "depmod", "-b", str(staging), kernel.release)
        process.run(words, seconds=120, what="finding the modules' dependencies")

    folder = cache_dir() / "modules" / f"{kernel.release}-{kernel.digest[:12]}"
    return ensure(folder, make, what="finding the modules' dependencies") / inside


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# What connects virtme-ng's guest with a terminal, and which accelerator it would use.
def _is_terminal(option: str, value: str) -> bool:
    return (
        option in ("-echr", "-serial", "-mon", "-monitor")
        or (option == "-chardev" and value.startswith(("stdio,", "file,")))
        or (option == "-device" and value.startswith(("virtio-serial-pci", "virtconsole,")))
        or (option == "-object" and value.startswith("monitor-"))
        or (option == "-machine" and value.startswith("accel="))
    )


# Consoles, verbosity, terminal, root and init are ours to say.
def _kept_kernel_words(line: str) -> list[str]:
    ours = re.compile(
        r"(console|virtme_console|virtme_stty_con|virtme_initmount0|loglevel|TERM|root|rootfstype|rootflags|raid|init)="
        r"|(quiet|ro|rw)$"
    )
    words = shlex.split(line)
    return [word for word in words[: words.index("--") if "--" in words else None] if not ours.match(word)]


def _quote(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _by_descriptor(value: str, sockets: Mapping[str, int]) -> str:
    for path, descriptor in sockets.items():
        if value.endswith(f",path={path}"):
            return value.removesuffix(f"path={path}") + f"fd={descriptor}"
    return value


# A listening socket and a connection to it; its name is gone again before anybody else could use it.
def _connected(path: Path) -> tuple[socket.socket, socket.socket]:
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    client.connect(str(path))
    path.unlink()
    return listener, client
