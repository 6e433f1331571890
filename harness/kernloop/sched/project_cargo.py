# SPDX-License-Identifier: Apache-2.0
"""A Cargo project: cargo tells in JSON what it made and what rustc complained of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kernloop.errors import HarnessError, UsageError
from kernloop.host import process
from kernloop.report.compiler import Diagnostic
from kernloop.sched import embedded

__all__ = ["QUOTES", "Run", "build", "cargo"]

# cargo says so before what a build script printed, each line of which it indents.
QUOTES = "failed to run custom build command"
_QUIET = {"CARGO_TERM_COLOR": "never", "CARGO_TERM_PROGRESS_WHEN": "never"}
# Where cargo cannot get what the project needs, the project is not at fault.
_NETWORK = ("failed to download", "failed to get", "Could not resolve host", "could not connect", "network")


class Run(Protocol):
    """Runs a step of a build."""

    failed: bool
    lines: list[str]
    diagnostics: list[Diagnostic]

    def __call__(
        self,
        argv: list[str | Path],
        env: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], str | None] = ...,
        /,
    ) -> None: ...


def cargo() -> str:
    """The host's cargo. Raises HarnessError."""
    found = shutil.which("cargo")
    if found is None:
        raise HarnessError(
            "cargo is not installed, and Rust schedulers are built by it",
            hint="install Rust 1.91 or later from https://rustup.rs; kernloop doctor says what else they need",
        )
    return found


def build(manifest: Path, target: str, out: Path, run: Run, env: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    """Build the project of `manifest` into `out`: programs with a scheduler inside, and no objects."""
    program = cargo()
    made: list[Path] = []
    _one_package(program, manifest, target)

    def line(text: str) -> str | None:
        if not text.startswith("{"):
            return text
        try:
            message = json.loads(text)
        except ValueError:
            return text
        return _message(message, run, made)

    words: list[str | Path] = [program, "build", "--release", "--message-format=json", "--manifest-path", manifest]
    words += ["--target-dir", out, *(["--bin", target] if target else [])]
    run(words, {**_QUIET, **env}, manifest.parent, line)
    if run.failed and not run.diagnostics:
        said = next((text for text in run.lines if any(word in text for word in _NETWORK)), "")
        if said and QUOTES not in "\n".join(run.lines):
            raise HarnessError(f"cargo cannot get the crates: {said.strip()}", hint="is the registry to be reached?")
        old = next((text for text in run.lines if "rustc" in text and "is not supported by" in text), "")
        if old:
            raise HarnessError(f"rustc is too old: {old.strip()}", hint="rustup update stable")
    return [path for path in made if embedded.schedulers(path)], []


# A workspace of many schedulers would be built for minutes, to say in the end that there are several.
def _one_package(program: str, manifest: Path, target: str) -> None:
    done = process.run(
        [program, "metadata", "--no-deps", "--format-version=1", "--manifest-path", manifest],
        seconds=120,
        what="asking cargo for the packages",
        cwd=manifest.parent,
        check=False,
    )
    if done.status != 0:
        return  # the build says it better
    found = json.loads(done.stdout)
    here = [package for package in found["packages"] if Path(package["manifest_path"]) == manifest]
    packages = here or found["packages"]
    names = sorted({name for package in packages for name in _programs(package)})
    if not names:
        raise UsageError(f"{manifest} builds no program", hint="a scheduler's crate has a src/main.rs")
    if target and target not in names:
        raise UsageError(f"{manifest} builds no program {target}", hint="it builds " + ", ".join(names))
    if not target and not here and len(packages) > 1 and len(names) > 1:
        raise UsageError(
            f"{manifest} is a workspace of {len(names)} programs: {', '.join(names)}",
            hint=f"say which: --target {names[0]}",
        )


def _programs(package: dict[str, Any]) -> list[str]:
    return [str(target["name"]) for target in package["targets"] if "bin" in target["kind"]]


# The text to keep of one of cargo's messages.
def _message(message: dict[str, Any], run: Run, made: list[Path]) -> str | None:
    if message.get("reason") == "compiler-artifact" and message.get("executable"):
        if "bin" in message["target"]["kind"]:
            made.append(Path(message["executable"]))
    elif message.get("reason") == "compiler-message":
        said = message["message"]
        if said["level"] == "error":
            run.diagnostics.append(_diagnostic(said))
        return str(said.get("rendered") or said["message"])
    return None


def _diagnostic(said: dict[str, Any]) -> Diagnostic:
    span: dict[str, Any] = next((one for one in said["spans"] if one["is_primary"]), {})
    source = span["text"][0]["text"].strip() if span.get("text") else ""
    place = (str(span.get("file_name", "")), int(span.get("line_start", 0)), int(span.get("column_start", 0)))
    return Diagnostic(*place, "error", str(said["message"]), tool="rustc", source=source)
