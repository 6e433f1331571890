# SPDX-License-Identifier: Apache-2.0
"""`git series check` and `kernel patch` on a whole kernel: its Makefile, its checkpatch, a tree of 90,000 files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernloop.git import build_files, patch, series
from kernloop.git.series import SeriesRequest
from kernloop.kernel import refs
from kernloop.kernel.checkout import checkout
from repos import Repo

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="takes minutes: set KERNLOOP_LONG_TESTS"),
]

SIGNED = "Signed-off-by: Ann Author <ann@example.org>\nSigned-off-by: Carl Committer <carl@example.org>"


def test_a_series_on_a_real_kernel(tmp_path: Path) -> None:
    checkout(refs.resolve(refs.DEFAULT), tmp_path / "linux", git=True)
    repo = Repo(tmp_path / "linux")
    repo.git("tag", "base")
    utils, header = "lib/string.c", "include/linux/string.h"
    repo.write(utils, repo.read(utils) + "\nint kernloop_later(int unused)\n{\n\treturn kernloop_no_such;\n}\n")
    repo.commit(f"lib/string: Do not build\n\nWhy.\n\n{SIGNED}")
    repo.replace(utils, "return kernloop_no_such", "return  0")
    repo.write(header, "/* touched */\n" + repo.read(header))
    repo.commit(f"lib/string: Build again\n\nWhy.\n\n{SIGNED}")
    report = series.check(SeriesRequest(repo.path, "base..HEAD"), build_files.builders(None), print)
    first, second = report.commits
    builds = [one for one in first.problems if one.check == "build"]
    assert {(one.level, one.file) for one in builds} == {("error", utils)}
    assert any("kernloop_no_such" in one.message for one in builds)
    assert "lib/string.o" in second.built
    assert not any(one.check == "build" for one in second.problems)
    assert any(one.check == "new-warning" and "kernloop_later" in one.message for one in second.problems)
    assert dict(second.not_built)[header].startswith("a header")
    # checkpatch ran as of a kernel tree.
    assert not any("checkpatch was not run" in note for note in report.notes)
    assert any(one.check == "checkpatch SPDX_LICENSE_TAG" and one.file == header for one in second.problems)
    data = repo.run("format-patch", "--stdout", "base").stdout.encode()
    repo.git("reset", "-q", "--hard", "base")
    done = patch.apply(repo.path, data)
    assert (done.state, len(done.messages)) == ("applied", 2)
    assert patch.undo(repo.path).state == "undone"
    assert repo.head == repo.git("rev-parse", "base") and repo.git("status", "--porcelain") == ""
