# SPDX-License-Identifier: Apache-2.0
"""Why a scheduler does not compile that does for another kernel: names that this one does not have.

vmlinux.h and scx's headers are those of the kernel that shall run it, so for clang a newer kfunc is just undeclared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kernloop.sched.check import kfuncs
from kernloop.sched.check.api import instead
from kernloop.sched.check.finding import Finding
from kernloop.sched.obj.kernel import KernelTypes

if TYPE_CHECKING:
    from kernloop.report.compiler import Diagnostic

__all__ = ["drift", "told", "unexplained"]

# clang/include/clang/Basic/DiagnosticSemaKinds.td: ext_implicit_function_decl_c99, err_undeclared_var_use,
# err_field_designator_unknown, err_no_member.
_NAMED = re.compile(
    r"^(?:call to undeclared function|use of undeclared identifier) '(?P<name>\w+)'"
    r"|^field designator '(?P<member>\w+)' does not refer to any field in type 'struct sched_ext_ops'"
)


def drift(diagnostics: Iterable[Diagnostic], release: str, types: KernelTypes | None) -> tuple[Finding, ...]:
    """The errors among `diagnostics` that are about what other kernels have and this one has not, each name once."""
    if types is None:
        return ()
    if types.members("sched_ext_ops") is None:
        why = f"{release} has no struct sched_ext_ops: it is built without sched_ext"
        return (Finding("api-ops-missing", "must", "", "", 0, "", why, "a kernel with CONFIG_SCHED_CLASS_EXT"),)
    found: dict[str, Finding] = {}
    for one in diagnostics:
        name = _named(one)
        if name and name not in found and (words := _words(name, release, types)):
            rule, why, cure = words
            found[name] = Finding(rule, "must", one.function, one.file, one.line, one.source.strip(), why, cure)
    return tuple(found.values())


def told(found: Sequence[Finding]) -> tuple[str, str]:
    """In one line what the kernel lacks, and what to do next."""
    first, more = found[0], len(found) - 1
    text = f"not for this kernel: {first.why}" + (f", and {more} more" if more else "")
    return text, f"{first.file}:{first.line}: {first.cure}" if first.file else first.cure


def unexplained(diagnostics: Iterable[Diagnostic], found: Iterable[Finding]) -> list[Diagnostic]:
    """Those of `diagnostics` that are not about what `found` says the kernel lacks, nor on a line with one that is."""
    lacking = list(found)
    if any(not one.file for one in lacking):
        return []
    lines = {(one.file, one.line) for one in lacking}
    return [
        one
        for one in diagnostics
        if (one.file, one.line) not in lines
        and not ((name := _named(one)) and any(re.search(rf"\b{name}\b", other.why) for other in lacking))
    ]


def _named(one: Diagnostic) -> str:
    match = _NAMED.match(one.message) if one.severity.endswith("error") else None
    return (match["name"] or match["member"]) if match else ""


# Rule, why and cure; None for what no kernel has either: that one is misspelt, or the scheduler's own.
def _words(name: str, release: str, types: KernelTypes) -> tuple[str, str, str] | None:
    having = kfuncs.releases_with(name)
    if not having and not any(name in (row.old, row.new) for row in kfuncs.heirs()):
        return None
    if types.has(name) or name in types.constants or name in (types.members("sched_ext_ops") or ()):
        return None
    has = f"linux {', '.join(having)} has it" if having else ""
    if name.startswith("SCX_"):
        return "api-core-missing", f"{release} has no constant {name}", f"do without where the kernel lacks it; {has}"
    if "scx_bpf_" not in name:
        return "api-member-missing", f"{release} has no ops.{name}", f"leave it out for this kernel; {has}"
    return "api-kfunc-missing", f"{release} has no {name}()", instead(name, types)
