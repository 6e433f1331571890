# SPDX-License-Identifier: Apache-2.0
"""Programs that each make one mistake, loaded in the default kernel: its verifier's words are known, every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernloop.host import process, toolset
from kernloop.kernel import refs, source
from kernloop.report.verifier import parse_rejection
from kernloop.sched.compile import compile_scheduler
from kernloop.vm import guest_programs
from support import ROOT, kernloop

pytestmark = pytest.mark.vm

PROGRAMS = ROOT / "tests/fixtures/verifier/programs"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    kit = source.kit(refs.resolve(refs.DEFAULT))
    folder = tmp_path_factory.mktemp("objects")
    made = []
    for program in sorted(PROGRAMS.glob("*.bpf.c")):
        out = folder / program.with_suffix(".o").name
        if program.name == "bare.bpf.c":
            argv: list[str | Path] = [
                toolset.get().clang,
                "-O2",
                "-target",
                "bpf",
                "-mcpu=v3",
                "-c",
                program,
                "-o",
                out,
            ]
            process.run(argv, seconds=60, what="compiling bare.bpf.c")
        else:
            built = compile_scheduler(program, kit, out)
            assert built.object is not None, built.text
        made.append(out)
    loader = guest_programs.build(
        "verifierload",
        [PROGRAMS / "load.c"],
        flags=[f"-I{kit.libbpf_include}", f"-I{kit.tree}/tools/include/uapi"],
        libraries=[str(kit.libbpf), "-lelf", "-lz", "-lzstd"],
    )
    return [loader, *made]


def test_each_mistake_is_named_by_the_words_of_the_default_kernel(objects: list[Path]) -> None:
    loader = objects[0]
    script = f"cd /root; echo 0 > /proc/sys/kernel/unprivileged_bpf_disabled; ./{loader.name} -q *.bpf.o"
    take = [word for file in objects for word in ("--with", str(file))]
    done = kernloop("run", "--memory", "1G", *take, "--", "sh", "-c", script, seconds=200)
    assert done.status == 0, done.text
    parts = done.out.decode(errors="replace").split("### ")[1:]
    logs = {name: log for name, _, log in (part.partition("\n") for part in parts)}
    assert len(logs) >= 100
    named = {}
    for name, log in logs.items():
        found = parse_rejection(log)
        named[name] = found.cause_id if found else "fine"
    assert {name: cause for name, cause in named.items() if cause != name.split("__")[0]} == {}
