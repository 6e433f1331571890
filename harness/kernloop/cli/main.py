# SPDX-License-Identifier: Apache-2.0
"""`kernloop` itself: the verbs put together, and what happens when one fails."""

from __future__ import annotations

import sys
import traceback

import typer

from kernloop import __version__
from kernloop.cli.output import fail
from kernloop.cli.verbs import VerbGroup
from kernloop.errors import HarnessError
from kernloop.host import bytecode

__all__ = ["app", "main"]

app = typer.Typer(
    name="kernloop",
    cls=VerbGroup,
    help="The kernel-development loop: build, boot in a VM, watch, and say in seconds what happened and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's own help takes 200 ms to import, and is drawn for people only
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        sys.stdout.write(f"kernloop {__version__}\n")
        raise typer.Exit()


def main() -> None:
    bytecode.keep()
    as_json = "--json" in sys.argv
    try:
        app(prog_name="kernloop")
    except HarnessError as error:
        # A verb that knows of --json has handled it by itself; this is for what fails around the verbs.
        raise SystemExit(fail(error, as_json=as_json).exit_code) from None
    except Exception as error:  # noqa: BLE001 a bug of ours must not look like the subject's fault (exit 1)
        where = traceback.extract_tb(error.__traceback__)[-1]
        bug = HarnessError(
            f"kernloop failed: {type(error).__name__}: {error} ({where.filename}:{where.lineno})",
            hint="this is a bug of kernloop; kernloop runs show last has what was done until then",
        )
        raise SystemExit(fail(bug, as_json=as_json).exit_code) from None
