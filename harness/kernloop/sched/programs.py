# SPDX-License-Identifier: Apache-2.0
"""The in-guest loader and test controller, compiled against a target kernel's libbpf."""

from __future__ import annotations

from pathlib import Path

from kernloop.kernel.source import BpfKit
from kernloop.vm import guest_programs
from kernloop.vm.initramfs import Payload

__all__ = ["FOLDER", "loader", "payloads", "suite"]

# Where our programs lie in the guest.
FOLDER = "/kl"

_GUEST = Path(__file__).parent / "guest"
_LOADER = ("scxload.c", "btfwalk.c", "json.c")


def loader(kit: BpfKit) -> Path:
    """scxload: loads any struct_ops scheduler object."""
    return guest_programs.build(
        "scxload",
        [_GUEST / name for name in _LOADER],
        # scxload.c says which definition comes twice.
        flags=[f"-I{kit.libbpf_include}", f"-I{kit.tree}/tools/include/uapi", "-Wl,--allow-multiple-definition"],
        libraries=[str(kit.libbpf), "-lelf", "-lz", "-lzstd"],
    )


def suite() -> Path:
    """scxsuite: starts a loader and puts its scheduler to the test."""
    return guest_programs.build(
        "scxsuite", sorted(set(_GUEST.glob("*.c")) - {_GUEST / "scxload.c", _GUEST / "btfwalk.c"}), flags=["-pthread"]
    )


def payloads(kit: BpfKit) -> list[Payload]:
    """What each guest that verifies a scheduler has in its initramfs."""
    return [Payload(suite(), f"{FOLDER}/scxsuite"), Payload(loader(kit), f"{FOLDER}/scxload")]
