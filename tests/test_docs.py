# SPDX-License-Identifier: Apache-2.0
"""What the documents say is so: links, paths, verbs, options, verdicts; and every command of the README is run.

In a fenced `console` block a line that begins with `$ ` is a command, in a `sh` block each line is one. `# exit N` at
its end is the exit code that it must have, 0 without.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from kernloop.cli.main import app
from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.host import apt
from kernloop.verdict import Verdict, exit_code, guest_exit_code
from support import ROOT, python_env

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("skills/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
# Commands that are not run here, and why.
EXEMPT = {
    "./kernloop doctor --fix": "it may install system packages",
    "./kernloop selftest": "it runs these tests",
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_EXIT = re.compile(r"\s+# exit (\d+)$")
_WORDS_OF_VERDICTS = "|".join(re.escape(verdict) for verdict in Verdict)


@dataclass(frozen=True)
class Command:
    """A command line of a document, the exit code that is claimed, and the output that is shown."""

    line: str
    status: int
    shown: tuple[str, ...]


def commands(document: Path) -> list[Command]:
    """All of a document's fenced blocks, in their order."""
    found: list[Command] = []
    for kind, body in _FENCE.findall(document.read_text()):
        if kind not in ("console", "sh"):
            continue
        lines = body.splitlines()
        starts = [n for n, line in enumerate(lines) if kind == "sh" or line.startswith("$ ")]
        for at, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            line = lines[at].removeprefix("$ ").strip()
            match = _EXIT.search(line)
            line = _EXIT.sub("", line)
            if line and not line.startswith("#"):
                found.append(Command(line, int(match[1]) if match else 0, tuple(lines[at + 1 : end])))
    return found


def run_commands(document: Path, **env: str) -> None:
    """Run what names ./kernloop or a variable of `env`, and compare with what the document says."""
    ran = 0
    ours = ("./kernloop", *(f"${name}" for name in env))
    for command in commands(document):
        if not any(word in command.line for word in ours) or any(command.line.startswith(known) for known in EXEMPT):
            continue
        text = command.line.replace("./kernloop", f"{shlex.quote(sys.executable)} -m kernloop")
        done = subprocess.run(
            ["sh", "-c", text], cwd=ROOT, env=python_env(**env), stdin=subprocess.DEVNULL, timeout=400,
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == command.status, f"{command.line}\n{said[-3000:]}"
        for line in command.shown:
            if match := re.match(rf"(?:kernloop: )?({_WORDS_OF_VERDICTS})(?:  |: )", line):
                assert re.search(rf"^{re.escape(match[0])}", said, re.M), f"{command.line}\nno {match[0]!r} in\n{said}"
        ran += 1
    assert ran


def named_commands(document: Path) -> Iterator[str]:
    """Every `./kernloop ...` in fenced blocks and in inline code."""
    text = document.read_text()
    for command in commands(document):
        yield command.line
    yield from re.findall(r"`([^`\n]*\./kernloop[^`\n]*)`", _FENCE.sub("", text))


def verdict_table(document: Path) -> dict[str, list[str]]:
    """Rows of the tables whose first column is headed `verdict`: the word to the other cells."""
    rows: dict[str, list[str]] = {}
    inside = False
    for line in document.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[0] == "verdict")
        if inside:
            for word in re.findall(r"`([\w-]+)`", cells[0]):
                rows[word] = cells[1:]
    return rows


# typer has a copy of click inside that it does not export: a group is told by what it can do.
def cli() -> Any:
    return typer.main.get_command(app)


def below(command: Any) -> dict[str, Any]:
    """The verbs of a group; none for a verb."""
    if not hasattr(command, "list_commands"):
        return {}
    return {name: command.get_command(None, name) for name in command.list_commands(None)}


def check_words(line: str) -> None:
    """Each verb and option in `line`, from ./kernloop to --, is one of the command line's."""
    for part in re.split(r"[;|&()]+|\$\(", line):
        _, found, rest = part.partition("./kernloop")
        if not found:
            continue
        command = cli()
        for word in rest.replace('"', "").split():
            if word == "--":
                break
            if word == "...":
                break
            if (verbs := below(command)) and not word.startswith("-"):
                assert word in verbs, f"there is no verb {word!r}: {line}"
                command = verbs[word]
            elif word.startswith("-"):
                known = {"-h", "--help"}.union(*(parameter.opts for parameter in command.params))
                assert word.partition("=")[0].strip("[]") in known, f"there is no option {word!r}: {line}"


def all_options(command: Any) -> set[str]:
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(all_options(one) for one in below(command).values()))


def ids(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture(params=DOCUMENTS, ids=ids)
def document(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", document.read_text())):
        if not target.startswith(("http://", "https://", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_paths_that_are_named_exist(document: Path) -> None:
    bases = (ROOT, document.parent, ROOT / "harness/kernloop")
    for path in re.findall(r"`([\w.*-]+/[\w./*-]*)`", _FENCE.sub("", document.read_text())):
        first = path.partition("/")[0]
        if re.search(r"\bNAME|_NAME", path) or not any((base / first).is_dir() for base in bases):
            continue
        assert any(any(base.glob(path.rstrip("/"))) for base in bases), f"there is no {path}"


def test_verbs_and_options_that_are_named_exist(document: Path) -> None:
    for line in named_commands(document):
        check_words(line)
    known = all_options(cli())
    for option in re.findall(r"`(--[a-z][\w-]*)", _FENCE.sub("", document.read_text())):
        assert option in known, f"no verb has the option {option}"


def of_this_machine() -> list[str]:
    """Places that only this machine has: where the checkout lies, where its packages come from."""
    mirror = apt.mirror()
    return [str(ROOT), "/tmp/", *([mirror.split("/")[2]] if mirror else [])]


def test_nothing_is_named_that_a_reader_cannot_have(document: Path) -> None:
    text = document.read_text()
    assert [word for word in of_this_machine() if word in text] == []


def test_a_check_of_words_finds_what_is_not_there() -> None:
    for line in ("./kernloop nosuch", "./kernloop run --nosuch -- true", "./kernloop kernel nosuch", "a; ./kernloop x"):
        with pytest.raises(AssertionError):
            check_words(line)
    check_words("./kernloop run --cpus 4 -- sh --nosuch")


def test_the_readme_has_every_verdict_with_its_exit_codes() -> None:
    rows = verdict_table(ROOT / "README.md")
    assert set(rows) == set(Verdict)
    for word, cells in rows.items():
        verdict, (verify, run) = Verdict(word), cells[-2:]
        if verify:
            assert int(verify) == exit_code(verdict), word
        if run.isdigit():
            # A guest never gives `rejected`: the kernel was refused on the host.
            told = SubjectError.exit_code if verdict is Verdict.REJECTED else guest_exit_code(verdict, 0)
            assert int(run) == told, word
    assert (UsageError.exit_code, HarnessError.exit_code) == (2, 125)


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 170
    assert [command.line.split("  ")[0] for command in commands(ROOT / "README.md")][:2] == list(EXEMPT)


def test_claude_reads_what_all_agents_read() -> None:
    assert (ROOT / "CLAUDE.md").read_text().strip() == "@AGENTS.md"
    assert (ROOT / ".agents/skills").resolve() == ROOT / "skills"


def test_the_licences_are_whole() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSES/GPL-2.0-only.txt").read_text()
    for source in (ROOT / "examples/schedulers").rglob("*.bpf.c"):
        assert "SPDX-License-Identifier: GPL-2.0-only" in source.read_text().partition("\n")[0], source


@pytest.mark.vm
def test_every_command_of_the_readme_does_what_it_says() -> None:
    run_commands(ROOT / "README.md")
