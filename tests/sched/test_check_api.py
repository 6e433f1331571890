# SPDX-License-Identifier: Apache-2.0
"""What no kernel takes is seen in the object alone: licence, sections, calls that may sleep."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from kernloop.sched.check import api, kfuncs
from kernloop.sched.check.places import Places
from kernloop.sched.check.scene import look
from kernloop.sched.check.table import rules
from kernloop.sched.obj import load
from kernloop.sched.obj.model import SchedObject
from kernloop.sched.obj.world import World
from support import ROOT


def scheduler() -> SchedObject:
    packed = ROOT / "tests/fixtures/objects/vtime-7.3.4.bpf.o.xz"
    return load.read(lzma.decompress(packed.read_bytes()), Path("vtime.bpf.o"))


def found(obj: SchedObject) -> list[api.Problem]:
    return list(api.problems(look(World(obj), Places(obj, None), None, own_loader=False)))


def with_program(name: str, **changes: object) -> SchedObject:
    obj = scheduler()
    return replace(obj, programs={**obj.programs, name: replace(obj.programs[name], **changes)})  # type: ignore[arg-type]


def test_a_sound_scheduler_has_no_problem() -> None:
    assert found(scheduler()) == []


@pytest.mark.parametrize(("licence", "count"), [("GPL", 0), ("Dual MIT/GPL", 0), ("MIT", 1), ("", 1), ("gpl", 1)])
def test_a_licence_must_be_compatible_with_the_gpl(licence: str, count: int) -> None:
    problems = found(replace(scheduler(), licence=licence))
    assert [(problem.rule, problem.level) for problem in problems] == [("licence", "must")] * count


def test_creating_a_queue_may_sleep() -> None:
    [problem] = found(with_program("vtime_init", sleepable=False, section="struct_ops/vtime_init"))
    assert (problem.rule, problem.level, problem.program) == ("sleepable-kfunc", "must", "vtime_init")
    assert problem.at is not None
    call = scheduler().programs[problem.program].insns[problem.at].call
    assert call is not None
    assert call.name == "scx_bpf_create_dsq"


def test_enqueue_must_not_sleep() -> None:
    [problem] = found(with_program("vtime_enqueue", sleepable=True, section="struct_ops.s/vtime_enqueue"))
    assert (problem.rule, problem.program) == ("op-sleepable", "vtime_enqueue")


def test_an_op_is_a_struct_ops_program() -> None:
    [problem] = found(with_program("vtime_dispatch", section="fentry/x"))
    assert (problem.rule, problem.program) == ("op-section", "vtime_dispatch")
    assert [problem.rule for problem in found(replace(scheduler(), ops=()))] == ["op-section"]


def test_a_program_that_no_table_names_is_told() -> None:
    obj = scheduler()
    members = {op: name for op, name in obj.ops[0].members.items() if op != "dispatch"}
    [problem] = found(replace(obj, ops=(replace(obj.ops[0], members=members),)))
    assert (problem.rule, problem.level, problem.program) == ("op-unused", "may", "vtime_dispatch")


def test_each_problem_is_a_rule_that_can_be_explained() -> None:
    named = set(api.Problem.__annotations__["rule"].split("'")[1::2])
    assert len(named) >= 11
    assert named <= set(rules())


def test_a_kfunc_is_for_the_ops_of_its_group() -> None:
    insert = kfuncs.callers("scx_bpf_dsq_insert___v2___compat") or frozenset()
    assert {"enqueue", "select_cid"} <= insert
    assert not {"running", "init"} & insert
    create = kfuncs.callers("scx_bpf_create_dsq") or frozenset()
    assert "cpuctl_init" in create
    assert "dispatch" not in create
    assert kfuncs.callers("scx_bpf_kick_cpu") is None
    assert kfuncs.callers("bpf_task_from_pid") is None
    # Of one name the second variant (6.19) is for all, the first for one op.
    assert kfuncs.callers("scx_bpf_reenqueue_local___v1") == frozenset(["cpu_release"])
    assert kfuncs.callers("scx_bpf_reenqueue_local___v2___compat") is None
