# SPDX-License-Identifier: Apache-2.0
"""A scheduler that is written for a newer kernel: what is told instead of clang's complaints."""

from __future__ import annotations

import lzma
from pathlib import Path

from kernloop.report.compiler import Diagnostic, errors, parse
from kernloop.sched.check.drift import drift, told, unexplained
from kernloop.sched.obj import load
from kernloop.sched.obj.kernel import KernelTypes
from support import ROOT

# clang 19 on examples/schedulers/fifo.bpf.c and others with the headers of 6.12.107.
SAID = """
new.bpf.c:58:2: error: call to undeclared function 'scx_bpf_dsq_insert'; ISO C99 and later do not support implicit \
function declarations [-Wimplicit-function-declaration]
new.bpf.c:61:18: error: use of undeclared identifier 'SCX_ENQ_IMMED'; did you mean 'SCX_ENQ_HEAD'?
new.bpf.c:77:2: error: call to undeclared function 'scx_bpf_dsq_insert'; ISO C99 and later do not support implicit \
function declarations [-Wimplicit-function-declaration]
new.bpf.c:80:2: error: call to undeclared function 'scx_bpf_dsq_inset'; ISO C99 and later do not support implicit \
function declarations [-Wimplicit-function-declaration]
new.bpf.c:90:3: error: field designator 'cgroup_set_idle' does not refer to any field in type 'struct sched_ext_ops'; \
did you mean 'cgroup_set_weight'?
""".replace("\\\n", "")


def old() -> KernelTypes:
    """What 6.12.107 has, as far as a scheduler for it needs it."""
    packed = ROOT / "tests/fixtures/objects/scx_simple-6.12.107.bpf.o.xz"
    btf = load.read(lzma.decompress(packed.read_bytes()), Path("scx_simple.bpf.o")).btf
    assert btf is not None
    return KernelTypes(btf)


def said() -> list[Diagnostic]:
    return errors(parse(SAID.splitlines()))


def test_what_the_kernel_lacks_is_told_with_what_it_has_instead() -> None:
    found = drift(said(), "6.12.107", old())
    assert [(one.rule, one.line) for one in found] == [
        ("api-kfunc-missing", 58),
        ("api-core-missing", 61),
        ("api-member-missing", 90),
    ]
    assert {one.level for one in found} == {"must"}
    assert "before 6.13 it is scx_bpf_dispatch()" in found[0].cure
    text, step = told(found)
    assert text == "not for this kernel: 6.12.107 has no scx_bpf_dsq_insert(), and 2 more"
    assert step == f"new.bpf.c:58: {found[0].cure}"


def test_a_misspelt_name_stays_an_error_of_the_compiler() -> None:
    found = drift(said(), "6.12.107", old())
    assert [one.line for one in unexplained(said(), found)] == [80]


def test_without_the_kernels_types_nothing_is_claimed() -> None:
    assert drift(said(), "6.12.107", None) == ()
