# SPDX-License-Identifier: Apache-2.0
"""The examples for continuous integration: YAML of the right form, and nothing in them that kernloop does not have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kernloop.host.paths import cache_dir, runs_dir
from kernloop.verdict import Verdict, exit_code
from support import ROOT
from test_docs import check_words, of_this_machine

GITHUB, GITLAB = ROOT / "examples/ci/github-actions.yml", ROOT / "examples/ci/gitlab-ci.yml"


def parsed(file: Path) -> dict[str, Any]:
    value = yaml.safe_load(file.read_text())
    assert isinstance(value, dict)
    return value


def github() -> dict[str, Any]:
    [job] = parsed(GITHUB)["jobs"].values()
    assert isinstance(job, dict)
    return job


def gitlab() -> dict[str, Any]:
    job = parsed(GITLAB)["kernloop"]
    assert isinstance(job, dict)
    return job


def steps(action: str) -> list[dict[str, Any]]:
    """GitHub's steps that use `action`."""
    return [step for step in github()["steps"] if step.get("uses", "").startswith(action)]


def scripts(file: Path) -> list[str]:
    """The shell texts of an example."""
    if file == GITLAB:
        return [*gitlab()["before_script"], *gitlab()["script"]]
    return [step["run"] for step in github()["steps"] if "run" in step]


def calls(file: Path) -> Iterator[str]:
    for script in scripts(file):
        yield from (line for line in script.splitlines() if "./kernloop" in line)


@pytest.fixture(params=[GITHUB, GITLAB], ids=lambda file: file.name)
def example(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_every_verb_and_option_exists(example: Path) -> None:
    found = list(calls(example))
    for line in found:
        check_words(line)
    assert {line.split()[1] for line in found} == {"doctor", "kernel", "verify", "run"}
    for verb in ("verify", "run"):
        [line] = [line for line in found if line.split()[1] == verb]
        assert "--junit junit/" in line
        assert '--kernel "$KERNEL"' in line


def test_the_shell_understands_every_script(example: Path) -> None:
    for script in scripts(example):
        assert subprocess.run(["sh", "-n", "-c", script], capture_output=True).stderr == b""


def test_every_file_that_is_named_is_there(example: Path) -> None:
    for path in re.findall(r"(?:examples|harness)/[\w./-]+", example.read_text()):
        assert (ROOT / path).is_file(), path


def test_nothing_is_named_that_a_reader_cannot_have(example: Path) -> None:
    assert [word for word in of_this_machine() if word in example.read_text()] == []


def test_each_runs_in_two_kernels_of_the_kind_that_kernloop_fetches() -> None:
    ours = [f"debian:{number}" for number in github()["strategy"]["matrix"]["kernel"]]
    [theirs] = gitlab()["parallel"]["matrix"]
    assert ours == theirs["KERNEL"] == ["debian:7.2", "debian:newest"]
    assert github()["env"]["KERNEL"] == "debian:${{ matrix.kernel }}"


def test_what_is_cached_and_kept_is_where_kernloop_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    [cache] = steps("actions/cache@")
    kept = {step["with"]["name"].partition("-")[0]: step["with"]["path"] for step in steps("actions/upload-artifact@")}
    monkeypatch.setenv("HOME", "/home/me")
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable)
    assert cache["with"]["path"].replace("~", "/home/me") == str(cache_dir())
    assert kept["runs"].replace("~", "/home/me") == str(runs_dir())
    assert kept["junit"] == "junit"
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, gitlab()["variables"][variable].replace("$CI_PROJECT_DIR", "/project"))
    assert [f"/project/{path}" for path in gitlab()["cache"]["paths"]] == [str(cache_dir())]
    assert [f"/project/{path}" for path in gitlab()["artifacts"]["paths"]] == [str(runs_dir())]


def test_names_that_github_does_not_take_are_not_given() -> None:
    for step in steps("actions/upload-artifact@"):
        for kernel in github()["strategy"]["matrix"]["kernel"]:
            assert not re.search(r'[":<>|*?\\/]', step["with"]["name"].replace("${{ matrix.kernel }}", str(kernel)))


def test_only_what_says_nothing_of_the_subject_is_run_again() -> None:
    assert gitlab()["retry"]["exit_codes"] == [exit_code(Verdict.INFRA)]
