# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect --host` as users call it, on repositories that are made for it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from histories import BAD, GOOD, Made, git, linear, make, tangled
from kernloop import runs
from kernloop.cli.main import app
from kernloop.git.history import History
from support import Done, processes_naming, start, the_run, until

# 125 where the commit is broken; the symptom is a file.
TEST = ("sh", "-c", "if test -e broken; then exit 125; fi; test ! -e bug")


def repository(folder: Path, parents: Mapping[str, tuple[str, ...]], culprit: str, **files: set[str]) -> Made:
    """A repository in which every commit from `culprit` on has the file `bug`; `files` name the commits of others."""
    bad = {name for name in parents if culprit in History(parents).ancestors(name)}

    def content(name: str) -> dict[str, str]:
        return {file: "x\n" for file, names in {**files, "bug": bad}.items() if name in names}

    return make(folder / "repository", parents, content)


def call(*words: str | Path) -> Done:
    """`kernloop bisect` in this process, which spares each call the imports."""
    done = CliRunner().invoke(app, ["bisect", *map(str, words)])
    return Done(done.exit_code, done.stdout_bytes, done.stderr_bytes)


def bisect(made: Made, *words: str, good: str = GOOD, bad: str = BAD, command: tuple[str, ...] = TEST) -> Done:
    ends = ("--good", made.sha[good], "--bad", made.sha[bad])
    return call(made.path, *ends, "--host", "--json", *words, "--", *command)


def found(done: Done, made: Made) -> list[str]:
    """The names of the candidates; a single one is the first bad commit."""
    names = {sha: name for name, sha in made.sha.items()}
    value = done.json
    candidates = [names[one["sha"]] for one in value["candidates"]]
    assert (value["first_bad"] or {}).get("sha") == (made.sha[candidates[0]] if len(candidates) == 1 else None)
    assert value["replayed"]
    assert done.status == value["exit_code"] == (0 if len(candidates) == 1 else 125), done.text
    return candidates


def log_of(value: Mapping[str, Any]) -> Path:
    return Path(value["run"]) / "bisect.log"


def left_behind() -> list[Path]:
    return list(Path(os.environ["XDG_CACHE_HOME"]).glob("kernloop/bisect/*"))


def test_the_commit_is_found_with_its_author_its_steps_and_the_evidence_on_both_sides(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(20), "c13", broken={"c10", "c11"})
    done = bisect(made)
    assert found(done, made) == ["c13"]
    first = done.json["first_bad"]
    assert (first["subject"], first["author"]) == ("c13", "A <a@example.org>")
    assert first["date"].startswith("1970-01-01T00:00:14")
    steps = {step["commit"]["subject"]: step for step in done.json["steps"]}
    assert steps[BAD]["standing"] == "bad" and steps[GOOD]["standing"] == "good"
    assert {step["standing"] for name, step in steps.items() if name in ("c10", "c11")} <= {"skip"}
    bad, good, log = done.json["evidence"]
    assert Path(bad["path"]).exists() and made.sha["c13"][:12] in bad["path"]
    assert Path(good["path"]).exists() and made.sha["c12"][:12] in good["path"]
    assert Path(log["path"]) == log_of(done.json)
    assert "step 1 of about" in done.text


def test_people_are_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = repository(tmp_path, linear(6), "c3")
    monkeypatch.chdir(made.path)
    done = call("--good", made.sha[GOOD], "--host", "--", *TEST)
    assert done.status == 0
    text = done.out.decode()
    assert "(c3) is the first bad commit" in text and f"next      git show {made.sha['c3'][:12]}" in text


@pytest.mark.parametrize("seed", range(4))
def test_git_replays_the_log_to_the_same_answer(tmp_path: Path, seed: int) -> None:
    parents = tangled(24, seed)
    chance = random.Random(seed)
    culprit = chance.choice(list(parents)[1:])
    spared = {GOOD, BAD, culprit}
    broken = {one for one in parents if one not in spared and chance.random() < 0.3}
    made = repository(tmp_path, parents, culprit, broken=broken)
    done = bisect(made)
    candidates = found(done, made)
    assert culprit in candidates
    git(tmp_path, "clone", "-q", str(made.path), "clone")
    said = subprocess.run(
        ["git", "-C", tmp_path / "clone", "bisect", "replay", log_of(done.json)], capture_output=True, text=True
    )
    assert said.returncode == (0 if len(candidates) == 1 else 2), said.stderr
    if len(candidates) == 1:
        assert f"{made.sha[culprit]} is the first bad commit" in said.stdout
    else:
        listed = set(re.findall("^[0-9a-f]{40}$", said.stdout, re.M))
        assert listed == {made.sha[name] for name in candidates}


def test_a_user_in_the_midst_of_work_finds_everything_as_it_was(tmp_path: Path) -> None:
    """Index, HEAD, branches, reflogs, stash, a bisect of their own, other worktrees, hooks: each file of .git."""
    made = repository(tmp_path, linear(12), "c5", broken={"c6"})
    hook = made.path / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/hook\n")
    (made.path / "name").write_text("stashed\n")
    made.git("stash")
    (made.path / "name").write_text("staged\n")
    made.git("add", "name")
    (made.path / "name").write_text("edited\n")
    (made.path / "untracked").write_text("mine\n")
    made.git("worktree", "add", "-q", str(tmp_path / "other"), "-b", "other")
    made.git("bisect", "start")
    made.git("bisect", "bad", made.sha["c9"])
    made.git("worktree", "add", "-q", str(tmp_path / "gone"), "-b", "gone")
    (tmp_path / "gone").rename(tmp_path / "moved")
    hook.chmod(0o755)
    before = made.everything()
    assert found(bisect(made), made) == ["c5"]
    assert found(bisect(made, "--runs", "3"), made) == ["c5"]
    assert bisect(made, command=("false",)).status == 1
    assert made.everything() == before
    assert not (tmp_path / "hook").exists()
    assert left_behind() == []


def test_what_stands_in_the_environment_of_a_hook_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = repository(tmp_path, linear(6), "c3")
    before = made.everything()
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    ends = ("--good", made.sha[GOOD], "--bad", made.sha[BAD])
    command = ("sh", "-c", 'test "$(git rev-parse --show-toplevel)" = "$PWD" || exit 125; test ! -e bug')
    done = call(made.path, *ends, "--host", "--json", "--", *command)
    assert found(done, made) == ["c3"]
    assert made.everything() == before


def test_commits_between_that_cannot_be_judged_leave_candidates(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(8), "c4", broken={"c2", "c3", "c5"})
    done = bisect(made)
    assert found(done, made) == ["c2", "c3", "c4"]
    assert done.json["verdict"] == "inconclusive"


def test_another_failure_is_not_this_one(tmp_path: Path) -> None:
    """c3 to c8 fail as well, in a way that hides whether the symptom would show; it is there from c6 on."""
    other = {f"c{number}" for number in range(3, 9)}
    made = repository(tmp_path, linear(16), "c6", other=other)
    command = ("sh", "-c", "test ! -e other || exit 2; test ! -e bug || { echo 'BUG: the one'; exit 1; }")
    assert found(bisect(made, command=command), made) == ["c3"]
    assert found(bisect(made, "--signature", "BUG: the (one|other)", command=command), made) == [
        *(f"c{number}" for number in range(3, 10))
    ]


def test_a_commit_that_hangs_is_bad_and_its_processes_end(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(6), "c4")
    command = ("sh", "-c", f"test ! -e bug || {{ sleep 4711.{os.getpid()} & wait; }}")
    # In it a shell starts and ends where the commit is good, also on a loaded machine.
    done = bisect(made, "--timeout", "1", command=command)
    assert found(done, made) == ["c4"]
    assert "the deadline of 1 s passed" in {step["why"] for step in done.json["steps"]}
    until(lambda: not processes_naming(f"4711.{os.getpid()}"), 20, "what was killed has gone")


def test_a_flaky_symptom_is_voted(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(6), "c4", broken={"c2"})
    half = "exit $(($(od -An -N1 -tu1 /dev/urandom) % 2))"
    command = ("sh", "-c", f"test ! -e broken || exit 125; test ! -e bug || {half}")
    done = bisect(made, "--runs", "10", "--fail-if", "1", command=command)
    assert found(done, made) == ["c4"]
    assert done.json["share"] < 1 and done.json["doubt"] <= 0.01


def test_a_merge_base_is_judged_where_good_is_on_another_branch(tmp_path: Path) -> None:
    parents = {GOOD: (), "base": (GOOD,), "g1": ("base",), "g2": ("g1",), "b1": ("base",), "b2": ("b1",), BAD: ("b2",)}
    side = {**parents, "all": (BAD, "g2")}
    made = repository(tmp_path, side, "b2")
    done = bisect(made, good="g2")
    assert found(done, made) == ["b2"]
    assert f"git bisect good {made.sha['base']}" in log_of(done.json).read_text()


def test_a_symptom_that_was_cured_on_the_good_branch_is_refused(tmp_path: Path) -> None:
    parents = {GOOD: (), "base": (GOOD,), "g1": ("base",), "b1": ("base",), BAD: ("b1",), "all": (BAD, "g1")}
    made = make(tmp_path / "repository", parents, lambda name: {"bug": "x"} if name in ("base", "b1", BAD) else {})
    done = bisect(made, good="g1")
    assert (done.status, done.json["verdict"]) == (1, "rejected")
    assert "the merge base" in done.text and "(base) shows the symptom: it was fixed on the way" in done.text


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(6), "c3")
    before = made.everything()
    for done, status, said in [
        (bisect(made, command=("true",)), 1, "(end) is not bad: 0 of 1 runs showed the symptom"),
        (bisect(made, command=("false",)), 1, "the good revision"),
        (bisect(made, good=BAD, bad=GOOD), 2, "the good revision contains the bad one"),
        (bisect(made, good=BAD, bad=BAD), 2, "the good revision contains the bad one"),
        (bisect(made, command=()), 2, "there is no command to judge commits by"),
        (bisect(made, "--good", "nosuch"), 2, "'nosuch' is no commit of"),
        (bisect(made, "--good", "--output=x"), 2, "is no commit of"),
        (bisect(made, "--runs", "2", "--fail-if", "3"), 2, "3 of 2 runs cannot fail"),
        (bisect(made, "--signature", "("), 2, "is no regular expression"),
        (bisect(made, "--signature", "verdict:lost"), 2, "is nothing that a commit can be blamed for"),
        (call(tmp_path, "--good", "x", "--host", "--", "true"), 2, "is in no git repository"),
        (call(made.path, "--host", "--", "true"), 2, "no good revision"),
        (call("--resume", "last"), 2, "there is no bisect to go on with"),
    ]:
        assert (done.status, said in done.text) == (status, True), done.text
        assert "Traceback" not in done.text
    assert made.everything() == before
    assert left_behind() == []


def test_unrelated_histories_are_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "repository", {GOOD: (), "lone": (), BAD: (GOOD,), "all": (BAD, "lone")}, lambda name: {})
    done = bisect(made, good="lone")
    assert done.status == 2 and "have no commit in common" in done.text


@pytest.mark.parametrize(("script", "how"), [("exit 200", "exits 200"), ("kill -9 $$", "was ended by signal 9")])
def test_a_command_that_ends_like_a_crash_stops_it_and_it_can_be_abandoned(
    tmp_path: Path, script: str, how: str
) -> None:
    made = repository(tmp_path, linear(6), "c3")
    before = made.everything()
    done = bisect(made, command=("sh", "-c", script))
    assert done.status == 125 and f"the command {how} at" in done.text
    assert "kernloop bisect --resume" in done.json["next"]
    assert call("--abandon", "last").status == 0
    assert made.everything() == before
    assert left_behind() == []
    assert call("--resume", "last").status == 2


def test_what_belongs_to_a_run_that_is_gone_goes_with_the_next(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(6), "c3")
    before = made.everything()
    assert bisect(made, command=("sh", "-c", "exit 200")).status == 125
    assert len(left_behind()) == 1
    runs.collect(keep=0)
    assert found(bisect(made), made) == ["c3"]
    assert made.everything() == before
    assert left_behind() == []


def killed_and_resumed(tmp_path: Path, seed: int, most: int) -> None:
    """A bisect killed at up to `most` random moments, until one comes to the end."""
    chance = random.Random(seed)
    parents = tangled(24, seed)
    culprit = chance.choice(list(parents)[1:])
    spared = {GOOD, BAD, culprit, *parents[culprit]}
    broken = {one for one in parents if one not in spared and chance.random() < 0.2}
    made = repository(tmp_path, parents, culprit, broken=broken)
    before = made.everything()
    calls = tmp_path / "calls"
    command = ("sh", "-c", f"sleep 0.02; cat name >> {calls}; {TEST[2]}")
    words = ["bisect", str(made.path), "--good", made.sha[GOOD], "--bad", made.sha[BAD], "--host", "--", *command]
    kills = 0
    while True:
        process = start(*words, "--json") if words[1] == "--resume" else start(*words[:-4], "--json", *words[-4:])
        try:
            # No moment is like another: in the midst of a checkout, of a run, of writing.
            out, err = process.communicate(timeout=chance.uniform(0.3, 1.0) if kills < most else 60)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
        # One that was killed before it had begun is not resumed, and leaves a run all the same.
        begun = [one.path for one in runs.listing() if "goods" in runs.read_json(one.path / "spec.json")]
        if begun and runs.read_json(begun[0] / "verdict.json").get("verdict") == "pass":
            # Killed on its way out: the answer is there, and nothing is to be resumed.
            out, err = (begun[0] / "verdict.json").read_bytes(), b""
            break
        if begun:
            words = ["bisect", "--resume", begun[0].name]
    value = json.loads(out)
    assert value["first_bad"]["subject"] == culprit, err
    journal = [json.loads(line)["subject"] for line in (Path(value["run"]) / "journal.jsonl").read_text().splitlines()]
    assert len(journal) == sum(step["shown"] + step["clean"] + step["unjudged"] for step in value["steps"])
    # What was under way when it was killed is done again, nothing else is.
    assert len(calls.read_text().split()) <= len(journal) + kills
    assert made.everything() == before
    until(lambda: not left_behind(), 20, "what the keepers clean up has gone")


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_and_resumed_it_comes_to_the_same_answer(tmp_path: Path, seed: int) -> None:
    killed_and_resumed(tmp_path, seed, 2)


@pytest.mark.slow
@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="takes minutes: set KERNLOOP_LONG_TESTS")
@pytest.mark.parametrize("seed", range(3, 23))
def test_killed_at_twenty_more_random_moments_it_comes_to_the_same_answer(tmp_path: Path, seed: int) -> None:
    killed_and_resumed(tmp_path, seed, 6)


def test_a_bisect_that_lives_is_not_resumed(tmp_path: Path) -> None:
    made = repository(tmp_path, linear(6), "c3")
    script = f"echo > {tmp_path}/on; sleep 60"
    process = start("bisect", made.path, "--good", made.sha[GOOD], "--host", "--", "sh", "-c", script)
    try:
        until((tmp_path / "on").exists, 20, "the first run")
        run = the_run()
        assert run is not None
        done = call("--resume", run.name)
        assert done.status == 2 and "is under way" in done.text
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
