# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect` on a history of the kernel: real builds of the distribution's source, real boots."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from histories import git
from kernloop.host.paths import cache_dir
from kernloop.kernel import refs
from kernloop.kernel.build import BuildRequest, opened
from kernloop.kernel.checkout import checkout
from kernloop.kernel.config import configure
from support import Done, kernloop, verdict_of

pytestmark = [pytest.mark.vm, pytest.mark.slow]

HOUR = 3600.0
NULL = "\tWRITE_ONCE(*(int *)NULL, 1);\n"
# What each commit does to a file of fs/proc. The bug is a write to NULL whenever somebody reads /proc/version.
COMMITS: list[tuple[str, str, Callable[[str], str]]] = [
    ("uptime: a comment", "uptime.c", lambda text: text + "/* Seconds since boot. */\n"),
    ("cmdline: a comment", "cmdline.c", lambda text: text + "/* As the boot loader gave it. */\n"),
    ("uptime: a line that is no C", "uptime.c", lambda text: text + "static int not_c = ;\n"),
    ("uptime: mended", "uptime.c", lambda text: text.replace("static int not_c = ;\n", "")),
    ("version: the bug", "version.c", lambda text: text.replace("\tseq_printf", f"{NULL}\tseq_printf")),
    ("loadavg: a comment", "loadavg.c", lambda text: text + "/* Three of them. */\n"),
]
# Symbols that few files know, so that a mix is built in seconds.
SYMBOLS = ("BSD_PROCESS_ACCT", "FHANDLE", "CROSS_MEMORY_ATTACH", "AIO")


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The newest kernel's source with the commits above, the branch of a user who is at work in it."""
    folder = tmp_path_factory.mktemp("history") / "linux"
    checkout(refs.resolve(refs.DEFAULT), folder, git=True)
    git(folder, "config", "gc.auto", "0")
    git(folder, "tag", "base")
    for subject, name, change in COMMITS:
        file = folder / "fs/proc" / name
        before = file.read_text()
        file.write_text(change(before))
        assert file.read_text() != before
        git(folder, "commit", "-q", "-a", "-m", subject)
    (folder / "README").write_text("A user is at work here.\n")
    yield folder
    shutil.rmtree(folder.parent)


def state(folder: Path) -> dict[str, str]:
    words = ("status --porcelain", "rev-parse HEAD", "for-each-ref", "reflog", "worktree list", "diff --stat")
    return {line: git(folder, *line.split()) for line in words}


def left_behind() -> list[Path]:
    """Folders of bisects whose run directories are this test's."""
    here = os.environ["XDG_STATE_HOME"]
    owners = (cache_dir() / "bisect").glob("*/owner.json")
    return [owner for owner in owners if json.loads(owner.read_text())["run"].startswith(here)]


def steps(done: Done) -> dict[str, dict[str, Any]]:
    return {step["commit"]["subject"]: step for step in done.json["steps"]}


def test_the_commit_that_makes_the_kernel_crash_is_found_with_the_consoles_of_both_sides(
    linux: Path, tmp_path: Path
) -> None:
    before = state(linux)
    # cat dies with a pipe's lock held: without oops=panic it never ends, and the run lasts until its deadline.
    words = ("--good", "base", "--profile", "tiny", "--append", "oops=panic")
    done = kernloop("bisect", linux, *words, "--json", "--", "cat", "/proc/version", seconds=HOUR)
    assert done.status == 0, done.text
    assert done.json["first_bad"]["subject"] == "version: the bug"
    assert done.json["replayed"]
    assert {name: step["standing"] for name, step in steps(done).items()} == {
        "loadavg: a comment": "bad",
        "uptime: a line that is no C": "skip",
        "version: the bug": "bad",
        "uptime: mended": "good",
        **{name: "good" for name in steps(done) if name.startswith(("linux-source", "cmdline", "uptime: a comment"))},
    }
    skipped = steps(done)["uptime: a line that is no C"]
    assert re.search(r"fs/proc/uptime.c:\d+: ", skipped["why"]), skipped
    assert "not_c" in Path(skipped["evidence"][0]).read_text()
    bad, good, log = (Path(one["path"]) for one in done.json["evidence"])
    assert verdict_of(bad)["verdict"] == "panic" and "NULL pointer dereference" in (bad / "console.log").read_text()
    assert verdict_of(good)["verdict"] == "pass" and "Linux version" in (good / "stdout").read_text()
    # Not where the user works.
    git(linux, "clone", "-q", "--shared", "--no-checkout", ".", str(tmp_path / "clone"))
    said = subprocess.run(
        ["git", "-C", tmp_path / "clone", "bisect", "replay", log], capture_output=True, text=True, check=True
    )
    assert f"{done.json['first_bad']['sha']} is the first bad commit" in said.stdout
    assert state(linux) == before
    assert left_behind() == []


@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="builds another kernel: set KERNLOOP_LONG_TESTS")
def test_the_symbol_that_makes_the_kernel_crash_is_found(linux: Path, tmp_path: Path) -> None:
    source = linux / "fs/proc/version.c"
    text = git(linux, "show", "base:fs/proc/version.c")
    bug = f"\tif (IS_ENABLED(CONFIG_BSD_PROCESS_ACCT))\n\t{NULL}"
    source.write_text(text.replace("\tseq_printf", f"{bug}\tseq_printf"))
    request = BuildRequest(linux, profile="tiny", folder=tmp_path / "objects")
    with opened(request) as folder:
        configure(folder.path, folder.make, request.wish)
        good, bad = tmp_path / "good.config", tmp_path / "bad.config"
        lines = (folder.path / ".config").read_text()
    good.write_text(lines)
    for symbol in SYMBOLS:
        lines, count = re.subn(rf"# CONFIG_{symbol} is not set", f"CONFIG_{symbol}=y", lines)
        assert count == 1
    bad.write_text(lines)
    ends = ("--good-config", good, "--bad-config", bad)
    done = kernloop(
        "bisect", linux, *ends, "--append", "oops=panic", "--json", "--", "cat", "/proc/version", seconds=HOUR
    )
    assert done.status == 0, done.text
    assert [(one["symbol"], one["good"], one["bad"]) for one in done.json["symbols"]] == [
        ("BSD_PROCESS_ACCT", "n", "y")
    ]
    assert done.json["differing"] >= len(SYMBOLS)
    assert left_behind() == []
