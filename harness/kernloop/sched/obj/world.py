# SPDX-License-Identifier: Apache-2.0
"""What the loader and a target kernel make of an object's constants: enums filled in, CO-RE and externs resolved.

Without a kernel all is as the object has it: enums by its own BTF, weak externs perhaps there.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernloop.sched.obj.btf import Btf, Type
from kernloop.sched.obj.kernel import KernelTypes
from kernloop.sched.obj.model import Core, SchedObject, essential

__all__ = ["World"]

_ENUMS = {"enum64": "enum"}
_DEEP = 30


class World:
    """An object beside a kernel (None: an unknown one) and its configuration (symbols without CONFIG_)."""

    def __init__(
        self, obj: SchedObject, kernel: KernelTypes | None = None, config: Mapping[str, str] | None = None
    ) -> None:
        self.obj = obj
        self.kernel = kernel
        self.config = config
        self._cores: dict[Core, int | None] = {}
        self._missing: dict[Core, bool] = {}
        self._exists: dict[str, bool | None] = {}

    def exists(self, name: str) -> bool | None:
        """Whether the kernel has the extern `name`; None when nobody knows.

        A weak kfunc with other parameters is none (linux tools/lib/bpf/libbpf.c, bpf_object__resolve_ksym_func_btf_id).
        """
        if name not in self._exists:
            self._exists[name] = self._has(name)
        return self._exists[name]

    def compatible(self, name: str) -> bool:
        """Whether the kernel's function takes and gives what the object's declaration says; so is one that it lacks."""
        extern = self.obj.externs[name]
        if self.kernel is None or self.obj.btf is None or extern.kind != "kfunc" or not extern.type_id:
            return True
        theirs = self.kernel.function(essential(name))
        return theirs is None or _compatible(self.obj.btf, extern.type_id, self.kernel.btf, theirs.id)

    def core(self, core: Core) -> int | None:
        """What CO-RE makes of it; None: what the instruction has already."""
        if core not in self._cores:
            self._cores[core] = self._core(core)
        return self._cores[core]

    def missing(self, core: Core) -> bool:
        """Whether the kernel lacks the type, member or constant that it is about."""
        if core not in self._missing:
            self._missing[core] = self._lacks(core)
        return self._missing[core]

    def _lacks(self, core: Core) -> bool:
        if self.kernel is None or self.obj.btf is None:
            return False
        local = self.obj.btf.resolve(core.type_id)
        name = essential(self.obj.btf.type(core.type_id).name or local.name)
        if core.kind.startswith("enumval"):
            return self._core(core) is None
        if core.kind.startswith("field"):
            return not self._field(local, name, core.access)
        # The id of a type in the object itself is always there.
        return core.kind != "type_id_local" and bool(name) and self._target(local, name) is None

    def constant(self, name: str) -> int | None:
        """What the loader puts into the variable __`name`: the kernel's value, 0 for what it lacks; None: any kernel's.

        tools/sched_ext/include/scx/enums.bpf.h.
        """
        return None if self.kernel is None else self.kernel.constants.get(name, 0)

    def kconfig(self, name: str) -> int | None:
        """What an extern `CONFIG_*` is: of a bool or tristate 0, 1 or, for m, 2; None when nobody knows."""
        if self.config is None or not name.startswith("CONFIG_"):
            return None
        value = self.config.get(name.removeprefix("CONFIG_"), "n")
        if value in ("n", "y", "m"):
            return ("n", "y", "m").index(value)
        try:
            return int(value, 0)
        except ValueError:
            return None

    def _has(self, name: str) -> bool | None:
        extern = self.obj.externs.get(name)
        if self.kernel is None or (extern is not None and extern.kind == "kconfig"):
            return None if extern is not None and extern.weak else True
        has = self.kernel.has(essential(name))
        return has and (extern is None or not extern.weak or self.compatible(name))

    def _core(self, core: Core) -> int | None:
        btf = self.obj.btf
        if btf is None:
            return None
        local = btf.resolve(core.type_id)
        name = essential(btf.type(core.type_id).name or local.name)
        if core.kind.startswith("enumval"):
            constant = local.enumerators[int(core.access.split(":")[0])]
            value = constant.value if self.kernel is None else self.kernel.enum_value(name, essential(constant.name))
            return (value is not None) if core.kind == "enumval_exists" else value
        if core.kind in ("type_exists", "type_matches"):
            return self.kernel is None or self._target(local, name) is not None
        if core.kind == "field_exists":
            return self.kernel is None or self._field(local, name, core.access)
        if core.kind == "type_size" and self.kernel is not None:
            target = self._target(local, name)
            return target.size if target else 0
        return None

    def _target(self, local: Type, name: str) -> Type | None:
        assert self.kernel is not None
        alike = {"enum": ("enum", "enum64"), "enum64": ("enum", "enum64")}.get(local.kind, (local.kind,))
        return self.kernel.btf.find(name, *alike, "typedef") if name else None

    # Whether the kernel's type has the members, by their names.
    def _field(self, local: Type, name: str, access: str) -> bool:
        assert self.kernel is not None and self.obj.btf is not None
        target = self._target(local, name)
        if target is None:
            return False
        mine, theirs = self.obj.btf, self.kernel.btf
        here, there = local, target.id
        for step in (int(step) for step in access.split(":")[1:]):
            if here.kind == "array":
                here, there = mine.resolve(here.type_id), theirs.resolve(there).type_id
                continue
            member = here.members[step]
            here = mine.resolve(member.type_id)
            if member.name:
                found = theirs.member(there, member.name)
                if found is None:
                    return False
                there = found.type_id
        return True


# Kinds all the way down, names never (linux tools/lib/bpf/relo_core.c, __bpf_core_types_are_compat).
def _compatible(ours: Btf, mine: int, theirs: Btf, other: int, depth: int = 0) -> bool:
    a, b = ours.resolve(mine), theirs.resolve(other)
    if _ENUMS.get(a.kind, a.kind) != _ENUMS.get(b.kind, b.kind):
        return False
    if depth > _DEEP or a.kind not in ("ptr", "func_proto", "array"):
        return True
    if a.kind == "func_proto" and (
        len(a.members) != len(b.members)
        or not all(
            _compatible(ours, x.type_id, theirs, y.type_id, depth + 1)
            for x, y in zip(a.members, b.members, strict=True)
        )
    ):
        return False
    return _compatible(ours, a.type_id, theirs, b.type_id, depth + 1)
