# SPDX-License-Identifier: Apache-2.0
"""Real schedulers' objects beside a real kernel's types: read, followed, and held to what that kernel has."""

from __future__ import annotations

import lzma
import time
from pathlib import Path

import pytest

from kernloop.kernel import refs, source
from kernloop.sched.check import api
from kernloop.sched.check.places import Places
from kernloop.sched.check.scene import Scene, look
from kernloop.sched.check.symbols import Sym, range_of
from kernloop.sched.compile import compile_scheduler
from kernloop.sched.obj import kernel, load
from kernloop.sched.obj.model import SchedObject
from kernloop.sched.obj.world import World
from support import ROOT, SCHEDULERS

pytestmark = pytest.mark.vm

# What its own source says is wrong with it, of the kind that no kernel takes.
KNOWN = {"licence": {"licence"}, "not_sleepable": {"sleepable-kfunc"}}


@pytest.fixture(scope="module")
def types() -> kernel.KernelTypes:
    path = refs.resolve(refs.DEFAULT).btf
    assert path is not None
    return kernel.of_btf(path)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SchedObject]:
    kit = source.kit(refs.resolve(refs.DEFAULT))
    folder = tmp_path_factory.mktemp("objects")
    sources = [*sorted(SCHEDULERS.rglob("*.bpf.c")), *sorted((kit.tree / "tools/sched_ext").glob("*.bpf.c"))]
    found = {}
    for path in sources:
        name = path.name.removesuffix(".bpf.c")
        built = compile_scheduler(path, kit, folder / f"{name}.bpf.o")
        if built.object is not None:
            found[name] = load.load(built.object)
    assert len(found) > 35
    return found


def scene(obj: SchedObject, types: kernel.KernelTypes) -> Scene:
    return look(World(obj, types), Places(obj, None), None, own_loader=False)


def packed(name: str) -> SchedObject:
    data = (ROOT / f"tests/fixtures/objects/{name}.bpf.o.xz").read_bytes()
    return load.read(lzma.decompress(data), Path(f"{name}.bpf.o"))


def test_schedulers_of_this_kernel_need_nothing_that_it_lacks(
    objects: dict[str, SchedObject], types: kernel.KernelTypes
) -> None:
    for name, obj in objects.items():
        rules = {problem.rule for problem in api.problems(scene(obj, types))}
        assert rules == KNOWN.get(name, set()), name


def test_every_program_is_followed_to_its_end_in_time(
    objects: dict[str, SchedObject], types: kernel.KernelTypes
) -> None:
    for name, obj in objects.items():
        began = time.process_time()
        seen = scene(obj, types)
        assert time.process_time() - began < 3, name
        # Of the examples each way of each program is seen; the largest of the kernel's own are given up, and say so.
        assert seen.complete or name in ("scx_qmap", "scx_sdt"), name
        for trace in seen.traces.values():
            # One ends in scx_bpf_exit() alone.
            ended = trace.of("exit", "scx_bpf_exit_bstr") or not trace.complete
            assert ended or name == "endless_loop", trace.entry


def test_the_queue_of_an_insert_is_known_where_it_is_a_constant(
    objects: dict[str, SchedObject], types: kernel.KernelTypes
) -> None:
    trace = scene(objects["fifo"], types).traces["fifo_enqueue"]
    inserts = trace.of("insert")
    assert {event.insn.call.name for event in inserts if event.insn.call} == {"scx_bpf_dsq_insert___v2___compat"}
    assert {event.args[1:3] for event in inserts} == {(0, 5_000_000)}
    for kick in trace.of("kick"):
        # The kernel's SCX_KICK_IDLE, which the loader puts there; and a CPU that was tested for >= 0.
        cpu, flags = kick.args
        assert flags == 1
        assert isinstance(cpu, Sym)
        assert (cpu.kind, cpu.a) == ("call", "scx_bpf_pick_idle_cpu")
        assert range_of(cpu, kick.facts)[0] == 0
    assert trace.of("kick")


def test_what_an_older_kernel_called_otherwise_has_its_new_name(types: kernel.KernelTypes) -> None:
    problems = list(api.problems(scene(packed("scx_simple-6.12.107"), types)))
    assert {problem.rule for problem in problems} == {"api-kfunc-missing"}
    cures = {problem.program: problem.cure for problem in problems}
    assert cures["simple_select_cpu"] == "scx_bpf_dsq_insert() does it (6.13 and later)"
    assert cures["simple_dispatch"] == "scx_bpf_dsq_move_to_local() does it (6.13 and later)"
    assert {problem.level for problem in problems} == {"must"}


def test_a_flag_that_the_kernel_does_not_know_is_refused(types: kernel.KernelTypes) -> None:
    obj = packed("vtime-7.3.4")
    obj.ops[0].scalars["flags"] = 1 << 40 | 2
    [problem] = api.problems(scene(obj, types))
    assert problem.rule == "api-flag-unknown"
    assert "0x10000000000" in problem.why
