# SPDX-License-Identifier: Apache-2.0
"""`kernloop debug crash` on dumps of real guests: who answers, what is in the answers, and what it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import trees
from kernloop.host.paths import cache_dir
from kernloop.kernel import modules
from kernloop.vm.request import VmRequest
from support import ROOT, Done, kernloop
from vms import running, sh

pytestmark = pytest.mark.vm
LONG = pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="KERNLOOP_LONG_TESTS is not set")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def dumps(state: Path) -> Iterator[dict[str, Path]]:
    """Of the tests' own kernel, which has debugging information: with a task of ours, then with a module as well."""
    with running(VmRequest(name="dumped", kernel=trees.kernel().ref), state=state) as vm:
        vm.exec_background(["sleep", "12345"])
        sh(vm, "until pidof sleep; do :; done; echo a mark in the log > /dev/kmsg")
        plain = Path(vm.dump(state / "plain")["path"])
        vm.push(modules.build_for(trees.kernel(), ROOT / "tests/modules/kl_hang").modules[0].path, "/root/kl_hang.ko")
        assert vm.exec(["insmod", "/root/kl_hang.ko"]).status == 0
        yield {"plain": plain, "module": Path(vm.dump(state / "module")["path"])}


@pytest.fixture(scope="module")
def debian(state: Path) -> Path:
    """Of a kernel that has BTF only."""
    with running(VmRequest(name="debian"), state=state) as vm:
        return Path(vm.dump(state / "debian")["path"])


def crash(*words: str | Path, env: Mapping[str, str] | None = None) -> Done:
    return kernloop("debug", "crash", *words, "--json", seconds=400, cwd=None, **(env or {}))


def texts(value: dict[str, Any]) -> dict[str, str]:
    return {one["command"]: Path(one["path"]).read_text() for one in value["answers"]}


def look(value: dict[str, Any]) -> None:
    """bt, ps, log and runq are of that guest, whoever answered."""
    found = texts(value)
    assert re.search(r"#\d \[\w+\] (__)?schedule at", found["bt 2"])
    assert re.search(r"\bsleep$", found["ps"], re.M)
    assert "a mark in the log" in found["log"]
    assert found["runq"].count("CURRENT:") == 2


def test_a_crash_that_reads_the_kernel_answers_page_by_page(dumps: dict[str, Path]) -> None:
    value = crash(dumps["plain"], "bt 2", "ps", "log", "runq", "nosuch", "--limit", "500").json
    assert value["by"].startswith("crash ")
    look(value)
    # A command that does not exist is told in its place, and the others are answered.
    assert "command not found" in texts(value)["nosuch"]
    log = value["answers"][2]
    assert log["more"]
    assert len(log["text"]) <= 500
    rest = kernloop("debug", "page", log["path"], "--since", str(log["cursor"]), "--grep", "a mark", "--json").json
    assert rest["text"].count("a mark in the log") == 1


def test_a_machines_crash_that_does_not_read_it_is_passed_over_and_so_are_modules(
    dumps: dict[str, Path], tmp_path: Path
) -> None:
    own = tmp_path / "crash"
    own.write_text('#!/bin/sh\necho "crash 1.2.3"\necho "crash: invalid kernel"\nexit 1\n')
    own.chmod(0o755)
    value = crash(dumps["module"], "bt 2", "ps", "log", "runq", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).json
    look(value)
    # 9.0.2 knows no modules of 7.x; one that does needs no second attempt.
    assert "crash 1.2.3: invalid kernel" in value["why_not_crash"]
    assert value["by"].startswith("crash ")
    assert ("module" in value["why_not_crash"]) == ("without modules" in value["by"])


def test_drgn_answers_the_same_where_it_is_asked(dumps: dict[str, Path]) -> None:
    value = crash(dumps["module"], "bt 2", "ps", "log", "runq", "--by", "drgn").json
    assert value["by"].startswith("drgn ")
    look(value)


def test_a_kernel_without_debugging_information_names_the_package_and_its_size(debian: Path, tmp_path: Path) -> None:
    # A cache that has the lists of packages and nothing else: another test may have fetched it.
    (tmp_path / "cache/kernloop").mkdir(parents=True)
    (tmp_path / "cache/kernloop/apt").symlink_to(cache_dir() / "apt")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = crash(debian, "bt", env=env)
    assert done.status == 2
    assert re.search(r"linux-image-7\.3\.4\S*-dbg, \d{3} MiB to fetch", done.json["summary"])
    assert "--fetch-debug" in done.json["next"]
    value = crash(debian, "ps", "log", "runq", "--by", "drgn", env=env).json
    assert value["by"].startswith("drgn ")
    assert "init" in texts(value)["ps"]
    assert "Linux version 7.3.4" in texts(value)["log"]
    assert crash(debian, "foreach bt", "--by", "drgn", env=env).status == 2
    assert not (tmp_path / "cache/kernloop/debug").exists()


def test_another_builds_vmlinux_and_a_cut_dump_are_refused(
    dumps: dict[str, Path], debian: Path, tmp_path: Path
) -> None:
    build = trees.kernel().build
    assert build is not None
    done = crash(debian, "bt", "--vmlinux", build / "vmlinux")
    assert done.status == 2
    assert "another build" in done.json["summary"]
    cut = tmp_path / "cut"
    cut.write_bytes(dumps["plain"].read_bytes()[: 3 << 20])
    done = crash(cut, "log")
    assert done.status == 125
    assert "nor does drgn" in done.json["summary"]


@LONG
def test_crash_reads_a_distributions_kernel_with_its_package(debian: Path) -> None:
    value = crash(debian, "bt 2", "runq", "--fetch-debug").json
    assert "kthreadd" in texts(value)["bt 2"]
    assert "schedule at" in texts(value)["bt 2"]
