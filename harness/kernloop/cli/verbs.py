# SPDX-License-Identifier: Apache-2.0
"""The verbs of `kernloop`: where each lies, and its line in `kernloop --help`, so that only the one called is imported.

A new verb is one line in `VERBS`; tests/cli/test_verbs.py compares the line with what the verb says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    # typer has a copy of click inside.
    from typer._click import Command, Context, HelpFormatter

__all__ = ["VERBS", "Verb", "VerbGroup", "command_of"]

_BEHIND = "kernloop.command"


@dataclass(frozen=True)
class Verb:
    """`place` is MODULE:NAME in kernloop.cli, a function or (for a verb group) a Typer; `help` its first line.

    With `takes_command` options end at the first word that is none: what follows is a command for a guest. With
    `command_behind` that command stands behind `--`, and arguments of the verb's own before: see `command_of`.
    """

    place: str
    help: str
    takes_command: bool = False
    command_behind: bool = False


VERBS = {
    "doctor": Verb("doctor:doctor", "What this machine has, what it lacks, and how to get it."),
    "kernel": Verb("kernel:app", "Kernels: what there is, facts, building one from a tree."),
    "run": Verb("run:run", "Boot a kernel, run a command in it, and exit as the command did.", takes_command=True),
    "verify": Verb("verify:verify", "Verify a sched_ext scheduler: compile, load, test in virtual time, judge."),
    "sched": Verb("sched:app", "sched_ext schedulers: static checks, and what one does in a VM."),
    "kselftest": Verb(
        "kselftest:kselftest", "Build the kernel's own selftests, run them in a guest, and say which did not pass."
    ),
    "kunit": Verb("kunit:kunit", "Boot a kernel that has KUnit, run its unit tests, and say which did not pass."),
    "report": Verb(
        "report:report", "Kernel crashes in a console log: kind, guilty function, title, fingerprint, evidence."
    ),
    "replay": Verb("replay:replay", "Repeat a run that was in virtual time, and compare it byte by byte."),
    "bisect": Verb("bisect:bisect", "Find the commit, or the symbol, that makes a command fail.", command_behind=True),
    "vm": Verb("vm:app", "VMs that live on between calls: start, exec, console, snapshot, ssh, stop."),
    "debug": Verb("debug:app", "Looking into a kernel: GDB, KGDB, drgn, crash, tracers, why it hangs, what it kept."),
    "git": Verb("git:app", "Checks of commits before they are sent, and conflicts explained."),
    "skills": Verb("skills:app", "The skills and MCP servers for coding agents."),
    "mcp": Verb("mcp:mcp", "Serve an agent by MCP, over stdio; skills install sets it up."),
    "runs": Verb("runs:app", "Run directories: all evidence of every run."),
    "bench": Verb("bench:app", "How long things take here."),
    "selftest": Verb("selftest:selftest", "Check kernloop itself: lint, types, unit tests, real boots; in a checkout."),
}


class VerbGroup(TyperGroup):
    """The verbs of `VERBS`, each imported when it is called."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name in VERBS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name, VERBS[cmd_name])
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        # A misspelt verb: typer looks in `commands` for what may have been meant.
        if args[0] not in VERBS:
            for name in VERBS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def command_of(ctx: typer.Context) -> tuple[str, ...]:
    """The words behind `--`, for a verb with `command_behind`."""
    return tuple(ctx.meta.get(_BEHIND, ()))


# click forgets where the `--` stood, and would give the command's first words to the verb's own arguments.
class _CommandBehind(TyperCommand):
    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_BEHIND], args = args[at + 1 :], args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]


def _load(name: str, verb: Verb) -> Command:
    module, _, attribute = verb.place.partition(":")
    found: Any = getattr(import_module(f"kernloop.cli.{module}"), attribute)
    parent = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        settings = {"allow_interspersed_args": not verb.takes_command}
        parent.command(name, cls=_CommandBehind if verb.command_behind else None, context_settings=settings)(found)
    return typer.main.get_group(parent).commands[name]
