# SPDX-License-Identifier: Apache-2.0
"""The verbs of `kernloop`, put together."""

from __future__ import annotations

import os
import sys

import typer

from kernloop import __version__
from kernloop.cli import doctor, kernel, run, runs, selftest, verify
from kernloop.errors import HarnessError

__all__ = ["app", "main"]

app = typer.Typer(
    name="kernloop",
    help="The kernel-development loop: build, boot in a VM, watch, and say in seconds what happened and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.add_typer(kernel.app, name="kernel")
app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
app.command("verify")(verify.verify)
app.add_typer(runs.app, name="runs")
app.command("selftest")(selftest.selftest)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        sys.stdout.write(f"kernloop {__version__}\n")
        raise typer.Exit()


def main() -> None:
    try:
        app(prog_name="kernloop")
    except HarnessError as error:
        from kernloop.cli.output import fail

        # A verb that knows of --json has handled it by itself; this is for what fails around the verbs.
        raise SystemExit(fail(error, as_json="--json" in sys.argv).exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("kernloop: interrupted\n")
        raise SystemExit(125) from None
    except BrokenPipeError:
        # Whoever read us has seen enough (`| head`): the interpreter must not complain while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
