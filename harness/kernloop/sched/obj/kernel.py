# SPDX-License-Identifier: Apache-2.0
"""What a target kernel has, by its BTF: kfuncs, members of structs, constants. Versions are not asked for."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.sched.obj.btf import Btf, Type

__all__ = ["KernelTypes", "of_btf"]


@cache
def of_btf(path: Path) -> KernelTypes:
    """The types in the file `path`: `Kernel.btf`. Raises BtfError, HarnessError."""
    try:
        return KernelTypes(Btf(path.read_bytes()))
    except OSError as error:
        raise HarnessError(f"cannot read the kernel's types in {path}: {error.strerror}") from None


class KernelTypes:
    """Questions to a kernel's BTF."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._functions: dict[str, Type | None] = {}

    def function(self, name: str) -> Type | None:
        """The prototype of that function, kfunc or not; None when the kernel has none."""
        if name not in self._functions:
            found = self.btf.find(name, "func")
            self._functions[name] = self.btf.resolve(found.type_id) if found else None
        return self._functions[name]

    def has(self, name: str) -> bool:
        """Whether it has that function or variable."""
        return self.function(name) is not None or self.btf.find(name, "var") is not None

    def record(self, name: str) -> Type | None:
        """The struct or union of that name."""
        return self.btf.find(name, "struct", "union")

    def members(self, name: str) -> tuple[str, ...] | None:
        """The members of that struct; None when the kernel has no such struct."""
        found = self.record(name)
        return tuple(member.name for member in found.members) if found else None

    @cached_property
    def constants(self) -> dict[str, int]:
        """SCX_* and their values: the constants of all enums that are called scx_*."""
        found: dict[str, int] = {}
        for type_id in self.btf.ids_with_prefix("scx_"):
            if self.btf.kind(type_id) in ("enum", "enum64"):
                found |= {constant.name: constant.value for constant in self.btf.type(type_id).enumerators}
        return found

    def enum_value(self, enum: str, name: str) -> int | None:
        """The constant `name` of that enum; None when the kernel lacks either."""
        found = self.btf.find(enum, "enum", "enum64")
        if found is None:
            return None
        return next((constant.value for constant in found.enumerators if constant.name == name), None)
