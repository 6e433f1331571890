# SPDX-License-Identifier: Apache-2.0
"""The needs that only a kernel and a guest can answer: the default kernel, what BPF is built with, the accelerator."""

from __future__ import annotations

from kernloop.host import toolset
from kernloop.host.needs import Need, State
from kernloop.host.paths import cache_dir
from kernloop.kernel import debian, refs, source
from kernloop.vm import accel

__all__ = ["fetch_all", "guest_needs"]


def guest_needs() -> list[Need]:
    """As things stand; fetches nothing and boots nothing unless all that takes is cached."""
    return [_kernel(), _bpf(), _accelerator()]


def fetch_all() -> None:
    """Fetch and build all that the default kernel's verify takes, and prove the accelerator. Raises HarnessError."""
    toolset.get()
    kernel = refs.resolve(refs.DEFAULT)
    source.kit(kernel)
    accel.prove(kernel)


def _kernel() -> Need:
    why = "what run and verify boot by default: Debian's newest with SCHED_CLASS_EXT"
    known = [kernel for kernel in debian.cached() if kernel.has_sched_ext]
    if not known:
        return Need("kernel", State.LATER, "none cached", why, "fetched when first needed, or: kernloop kernel fetch")
    return Need("kernel", State.OK, known[-1].release, why)


def _bpf() -> Need:
    why = "libbpf, bpftool and scx headers of the kernel's own source, for verify"
    built = sorted((cache_dir() / "builds").glob("linux-source-*"))
    if not built:
        return Need("bpf", State.LATER, "not built yet", why, "built when first needed, or: kernloop doctor --fix")
    return Need("bpf", State.OK, built[-1].name.partition("_")[0], why)


def _accelerator() -> Need:
    why = "KVM runs guests at the host CPU's speed, TCG emulates it; verify's virtual time always uses TCG"
    kernels = debian.cached()
    if toolset.find() is None or not kernels:
        return Need("accelerator", State.LATER, "not proved yet", why, "proved by booting: kernloop doctor --fix")
    found = accel.prove(kernels[-1])
    if found.name == "kvm":
        return Need("accelerator", State.OK, "kvm", f"{why}; {found.why}")
    return Need("accelerator", State.WARN, "tcg", f"{why}; {found.why}", "nothing to do: TCG works, slower")
