# SPDX-License-Identifier: Apache-2.0
"""The verbs and how fast they are there: what --help lists is true, and a call imports only what it uses."""

from __future__ import annotations

import inspect
import resource
import statistics
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kernloop.cli.main import app
from kernloop.cli.verbs import VERBS
from support import kernloop, python_env

# Libraries that take 20 ms or more to import; the second row is for talking to a guest.
HEAVY = (
    *("pydantic", "rich", "markdown_it", "pygments", "elftools", "zstandard", "jinja2", "junitparser"),
    *("drgn", "capstone"),
)
GUEST = ("asyncio", "qemu", "ssl")


def imported(*words: str) -> set[str]:
    """The modules that a call of kernloop imports."""
    script = (
        "import sys\n"
        "from kernloop.cli.main import main\n"
        f"sys.argv = ['kernloop', *{list(words)}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('modules:', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=python_env(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return set(done.stdout.rpartition("modules:")[2].split())


def heavy(modules: set[str], names: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if name in modules)


def verb(name: str) -> Any:
    return typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", VERBS)
def test_the_line_in_the_help_is_what_the_verb_says_of_itself(name: str) -> None:
    module, _, attribute = VERBS[name].place.partition(":")
    found = getattr(import_module(f"kernloop.cli.{module}"), attribute)
    own = found.info.help if isinstance(found, typer.Typer) else (inspect.getdoc(found) or "").partition("\n")[0]
    assert VERBS[name].help == own


def test_help_lists_every_verb_with_its_line() -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    for name, about in VERBS.items():
        assert f"{name} {about.help}" in text


@pytest.mark.parametrize("name", VERBS)
def test_no_line_of_a_groups_help_is_cut(name: str) -> None:
    assert "..." not in CliRunner().invoke(app, [name, "--help"]).stdout.partition("Commands:")[2]


def test_a_misspelt_verb_is_answered_with_the_one_that_was_meant() -> None:
    done = CliRunner().invoke(app, ["verfy"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such command 'verfy'. Did you mean 'verify'?" in done.stderr


def test_without_a_verb_the_help_is_shown() -> None:
    done = kernloop()
    assert "Commands:" in (done.out + done.err).decode()


def test_options_behind_a_guests_command_are_the_commands() -> None:
    assert list(verb("run").make_context("run", ["echo", "--json"]).params["command"]) == ["echo", "--json"]
    assert verb("verify").make_context("verify", ["a.bpf.c", "--json"]).params["as_json"] is True


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    modules = imported("--help")
    assert "kernloop.cli.verbs" in modules
    assert heavy(modules, (*HEAVY, *GUEST)) == []
    assert {name for name in modules if name.startswith("kernloop.")} <= {
        "kernloop.cli", "kernloop.cli.main", "kernloop.cli.output", "kernloop.cli.verbs", "kernloop.errors",
        "kernloop.host", "kernloop.host.bytecode", "kernloop.host.paths", "kernloop.host.progress",
    }  # fmt: skip


def test_verbs_that_start_no_guest_import_nothing_for_one() -> None:
    assert heavy(imported("runs", "list"), GUEST) == []
    assert heavy(imported("kernel", "path", "path:/nosuch"), GUEST) == []


@pytest.mark.vm
def test_a_run_that_passes_imports_nothing_that_it_does_not_use() -> None:
    modules = imported("run", "--", "true")
    assert "kernloop.vm.machine" in modules
    assert heavy(modules, HEAVY) == []


def test_help_is_there_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """By CPU time, which other work on the machine does not add to."""
    taken = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert kernloop("--help").status == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    with capsys.disabled():
        print(f"\nkernloop --help: {statistics.median(taken):.3f} s of CPU time")
    assert statistics.median(taken) <= 0.25
