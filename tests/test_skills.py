# SPDX-License-Identifier: Apache-2.0
"""Skills can be found, read and followed: front matter, size, facts that the code shares, and every command is run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import trees
from kernloop.sched.check.table import rules as load_rules
from kernloop.sched.selection import TESTS
from kernloop.verdict import Verdict, exit_code
from support import ROOT, SCHEDULERS
from test_docs import run_commands, verdict_table

SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
SCHED_EXT = ROOT / "skills/sched-ext"


def front_matter(skill: Path) -> dict[str, str]:
    """The plain `key: value` lines between the two `---`."""
    match = re.match(r"---\n(.*?)\n---\n", skill.read_text(), re.S)
    assert match, f"{skill} has no front matter"
    return dict(line.split(": ", 1) for line in match[1].splitlines())


@pytest.fixture(params=SKILLS, ids=lambda skill: skill.parent.name)
def skill(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_are_skills() -> None:
    assert {skill.parent.name for skill in SKILLS} >= {"sched-ext", "kernel-boot", "kernel-build", "serial-console"}


def test_front_matter_is_valid(skill: Path) -> None:
    fields = front_matter(skill)
    assert set(fields) == {"name", "description"}
    assert fields["name"] == skill.parent.name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fields["name"])
    description = fields["description"]
    assert "Use when" in description
    assert 100 <= len(description) <= 1024
    # What ends or changes a plain YAML scalar, or looks like markup to a reader.
    assert not re.search(r": | #|^[\"'&*!|>%@`\[{-]|[<>]", description)


def test_the_body_is_short_and_begins_with_a_decision(skill: Path) -> None:
    text = skill.read_text()
    assert len(text.splitlines()) < 200
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[:2] == ["Decide first", "The one command"]
    assert "Pitfalls" in headings


def test_references_are_all_linked_from_the_body(skill: Path) -> None:
    for reference in (skill.parent / "references").glob("*.md"):
        assert f"(references/{reference.name})" in skill.read_text(), reference.name


def test_verdicts_are_the_codes(skill: Path) -> None:
    rows = verdict_table(skill)
    assert rows or "| verdict" not in skill.read_text()
    assert set(rows) <= set(Verdict)


def test_the_exit_codes_of_verify_are_the_codes() -> None:
    for word, cells in verdict_table(SCHED_EXT / "SKILL.md").items():
        assert int(cells[0]) == exit_code(Verdict(word)), word


def test_the_suite_is_described_test_by_test() -> None:
    text = (SCHED_EXT / "references/suite.md").read_text()
    assert tuple(re.findall(r"^\| `([\w-]+)` \|", text, re.M)) == TESTS


def test_each_usual_mistake_names_its_examples_and_how_they_end() -> None:
    rows: dict[int, set[str]] = {}
    static: dict[int, set[str]] = {}
    kinds: dict[int, str] = {}
    for line in (SCHED_EXT / "references/mistakes.md").read_text().splitlines():
        if match := re.match(r"\| (\d+) \|[^|]*\|([^|]*)\|.*\|([^|]*)\|([^|]*)\|$", line):
            rows[int(match[1])] = set(re.findall(r"`(\w+)`", match[4]))
            static[int(match[1])] = set(re.findall(r"`([\w-]+)`", match[3]))
            kinds[int(match[1])] = match[2]
    assert sorted(rows) == list(range(1, 21))
    expected = tomllib.loads((SCHEDULERS / "expected.toml").read_text())["scheduler"]
    for entry in expected:
        name = Path(entry["path"]).name.removesuffix(".bpf.c")
        if "mistake" in entry:
            assert name in rows[entry["mistake"]], f"{name} is not in row {entry['mistake']}"
            ends = {"ejected": f"{entry.get('kind')} {entry['by']}", "test-failed": f"test-failed {entry['by']}"}
            told = ends.get(entry["verdict"], "V")
            assert told in kinds[entry["mistake"]], f"{name}: row {entry['mistake']} does not say {told}"
    for rule in load_rules().values():
        assert not rule.mistake or rule.id in static[rule.mistake], f"{rule.id} is not in row {rule.mistake}"
    for name in set().union(*rows.values()):
        assert (SCHEDULERS / "broken" / f"{name}.bpf.c").exists(), name


@pytest.mark.vm
def test_every_command_of_a_skill_does_what_it_says(skill: Path) -> None:
    if "$KERNEL" in skill.read_text():
        run_commands(skill, KERNEL=trees.kernel().ref)
        return
    if "$LINUX" not in skill.read_text():
        run_commands(skill)
        return
    # The kernel tree of a skill's reader: here one that is built already, for a build from nothing takes minutes.
    with trees.tiny() as tree, trees.restored("kernel/reboot.c"):
        run_commands(skill, LINUX=str(tree))
