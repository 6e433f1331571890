# SPDX-License-Identifier: Apache-2.0
"""`kernloop selftest`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from kernloop.cli.output import err, fail
from kernloop.errors import UsageError

_WORKERS = 4


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="Lint, types, and the tests without VMs and fuzzing.")] = False,
) -> None:
    """Check kernloop itself: lint, types, unit tests, real boots; in a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir():
        raise fail(
            UsageError(
                "selftest runs from a checkout, not from an installed package",
                hint="clone the repository and run ./kernloop selftest there",
            ),
            as_json=False,
        )
    if importlib.util.find_spec("pytest") is None:
        raise fail(
            UsageError("the development extras are not installed", hint="pip install -e '.[dev]'"), as_json=False
        )
    chosen = ["-m", "not vm and not fuzz"] if quick else []
    steps = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        # Guests run on one host CPU each. How tests are shared out: tests/conftest.py.
        ["pytest", "-n", str(min(os.cpu_count() or 1, _WORKERS)), "--dist", "loadfile", *chosen],
    ]
    for step in steps:
        err.print(f"kernloop: {' '.join(step)}")
        # The user's terminal is theirs: colours, progress and Ctrl-C reach them as if typed by hand.
        status = subprocess.run([sys.executable, "-m", *step], cwd=root).returncode
        if status:
            raise typer.Exit(status)
