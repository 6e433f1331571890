# SPDX-License-Identifier: Apache-2.0
"""The in-guest loader and test controller, compiled against a target kernel's libbpf."""

from __future__ import annotations

from pathlib import Path

from kernloop.kernel.source import BpfKit
from kernloop.vm import guest_programs

__all__ = ["loader", "suite"]

_GUEST = Path(__file__).parent / "guest"
_LOADER = ("scxload.c", "btfwalk.c", "json.c")


def loader(kit: BpfKit) -> Path:
    """scxload: loads any struct_ops scheduler object."""
    return guest_programs.build(
        "scxload",
        [_GUEST / name for name in _LOADER],
        flags=[f"-I{kit.libbpf_include}", f"-I{kit.tree}/tools/include/uapi"],
        libraries=[str(kit.libbpf), "-lelf", "-lz", "-lzstd"],
    )


def suite() -> Path:
    """scxsuite: starts a loader and puts its scheduler to the test."""
    return guest_programs.build(
        "scxsuite", sorted(set(_GUEST.glob("*.c")) - {_GUEST / "scxload.c", _GUEST / "btfwalk.c"}), flags=["-pthread"]
    )
