# SPDX-License-Identifier: Apache-2.0
"""`kernloop kernel build / config / source`: from a source tree to a kernel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop import runs
from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError, UsageError
from kernloop.kernel import fragments, refs
from kernloop.kernel.build import BuildFailed, BuildRequest, Built, opened
from kernloop.kernel.build import build as build_kernel
from kernloop.kernel.checkout import checkout
from kernloop.kernel.config import ConfigError, Dropped, configure, values
from kernloop.kernel.fragments import PROFILES
from kernloop.kernel.kconfig import Symbol, explain
from kernloop.kernel.tree import collect
from kernloop.present import failure_json, plain
from kernloop.report.compiler import Diagnostic

__all__ = ["build", "clean", "config", "source"]

_SCHEMA = "kernloop.build/1"
_SHOWN = 20

Tree = Annotated[Path, typer.Argument(help="The kernel source tree; it is not written to.")]
Profile = Annotated[str, typer.Option(help="; ".join(f"{name}: {p.about}" for name, p in PROFILES.items()))]
Fragment = Annotated[
    list[str] | None, typer.Option(help="Symbols to add, by name or as a file: kasan, lockdep, ... Once for each.")
]
Setting = Annotated[list[str] | None, typer.Option("--config", help="One symbol, as in KASAN=y. Once for each.")]
Base = Annotated[Path | None, typer.Option(help="A whole .config to start from, instead of a profile.")]
Llvm = Annotated[bool, typer.Option("--llvm", help="clang and lld, not gcc.")]
ArchOption = Annotated[str, typer.Option("--arch", help="x86_64; arm64 and riscv are built, guests cannot run them.")]


def build(
    tree: Tree = Path(),
    profile: Profile = "test",
    fragment: Fragment = None,
    setting: Setting = None,
    base: Base = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Commands at once; as many as there are CPUs.")] = None,
    llvm: Llvm = False,
    arch: ArchOption = "x86_64",
    module: Annotated[
        str | None, typer.Option(help="Only a module, fs/ext4 or a folder outside the tree; then load it in a guest.")
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(help="With --module: what uses the loaded module, after --.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--with", help="With --module: a file for the guest, into /root.")
    ] = None,
    parameter: Annotated[list[str] | None, typer.Option(help="With --module: one of its parameters, A=B.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="With --module: seconds for the command.")] = 120.0,
    as_json: JsonFlag = False,
) -> None:
    """Build a kernel from a source tree, which stays clean.

    Only what the last edit asks for; it says what that is, and why.

    0: built. 1: the code does not build, or a symbol cannot be set. 125: the machine or kernloop failed.
    """
    ran: Path | None = None
    try:
        request = BuildRequest(tree, profile, tuple(fragment or ()), settings(setting), base, jobs, llvm, arch)
        if module is not None:
            # It runs guests, which takes long to import, and most builds are of kernels.
            from kernloop.cli.kernel_module import Use, try_module

            use = Use(module, tuple(command or ()), tuple(files or ()), tuple(parameter or ()), timeout=timeout)
            raise typer.Exit(try_module(request, use, as_json=as_json))
        if command or files or parameter:
            raise UsageError("a command, --with and --parameter are for a module", hint="add --module DIR")
        begun = time.monotonic()
        spec = {"subject": str(tree.expanduser().resolve()), **plain(request)}
        with runs.create("build", _SCHEMA, spec) as record, progress(record=record):
            ran = record.path
            try:
                built = build_kernel(request)
            except HarnessError as error:
                record.judge(_failed(error, record.path))
                raise
            value = _built(built, record.path, time.monotonic() - begun)
            record.judge(value)
    except HarnessError as error:
        if as_json:
            print_json(_failed(error, ran))
            raise typer.Exit(error.exit_code) from None
        if isinstance(error, BuildFailed):
            _show(error.diagnostics, error.new)
        if isinstance(error, ConfigError):
            _show_dropped(error.dropped)
        raise fail(error, as_json=False) from None
    if as_json:
        print_json(value)
        return
    _show(built.diagnostics, built.new)
    out.print(escape(value["summary"]))
    out.print(f"  [bold]next:[/] {escape(value['next'])}")


def config(
    tree: Tree = Path(),
    profile: Profile = "test",
    fragment: Fragment = None,
    setting: Setting = None,
    base: Base = None,
    llvm: Llvm = False,
    arch: ArchOption = "x86_64",
    why: Annotated[list[str] | None, typer.Option(help="Say why a symbol is as it is. Once for each.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Configure only; --why says why a symbol is off.

    Each symbol asked for is looked up in the result.

    0: all came true. 1: a symbol cannot be set. 2: bad input.
    """
    request = None
    dropped: tuple[Dropped, ...] = ()
    try:
        request = BuildRequest(tree, profile, tuple(fragment or ()), settings(setting), base, None, llvm, arch)
        names = [(name.removeprefix("CONFIG_").partition("=")[0], name.partition("=")[2] or "y") for name in why or ()]
        with progress(), opened(request) as folder:
            try:
                configure(folder.path, folder.make, request.wish)
            except ConfigError as error:
                if not names:
                    raise
                dropped = error.dropped
            made = folder.path / ("kernloop/new.config" if dropped else ".config")
            symbols = explain(folder.path, folder.make, made, names) if names else []
            have = values(made)
    except HarnessError as error:
        if as_json:
            print_json(_failed(error, None))
            raise typer.Exit(error.exit_code) from None
        if isinstance(error, ConfigError):
            _show_dropped(error.dropped)
        raise fail(error, as_json=False) from None
    if as_json:
        print_json(
            {
                "schema": "kernloop.config/1",
                "config": str(made),
                "built_in": sum(value == "y" for value in have.values()),
                "modules": sum(value == "m" for value in have.values()),
                "dropped": plain(dropped),
                "symbols": [{**plain(symbol), "why": symbol.why} for symbol in symbols],
            }
        )
    else:
        for symbol in symbols:
            _explain(symbol)
        if not symbols:
            count = sum(value == "y" for value in have.values())
            out.print(f"{made}: {count} symbols built in, {sum(value == 'm' for value in have.values())} as modules")
    raise typer.Exit(1 if dropped and not names else 0)


def source(
    folder: Annotated[Path, typer.Argument(help="Where it goes: a new folder.")],
    kernel: Annotated[str, typer.Option(help="The kernel whose source it is.")] = refs.DEFAULT,
    git: Annotated[bool, typer.Option("--git", help="As a git repository with one commit.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a kernel's whole source, as a tree to edit.

    150 MB to fetch, 1.7 GB on disk.
    """
    try:
        with progress():
            found = checkout(refs.resolve(kernel), folder, git=git)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    if as_json:
        value = {"folder": str(folder.resolve()), "package": found.package, "version": found.version}
        print_json({"schema": "kernloop.source/1", **value, "exact": found.exact})
    else:
        out.print(f"{found.package} {found.version} is in {escape(str(folder))}")
        out.print(f"  [bold]next:[/] kernloop kernel build {escape(str(folder))} --profile tiny")


def clean(
    keep: Annotated[int, typer.Option(min=0, help="How many build folders stay, those built last.")] = 2,
    as_json: JsonFlag = False,
) -> None:
    """Remove old build folders; kernels that were built stay."""
    try:
        removed = collect(keep=keep)
    except OSError as error:
        raise fail(HarnessError(f"cannot remove {error.filename}: {error.strerror}"), as_json=as_json) from None
    if as_json:
        print_json({"schema": "kernloop.clean/1", "removed": [str(path) for path in removed]})
    else:
        for path in removed:
            out.print(f"removed {escape(str(path))}")


def _show_dropped(dropped: tuple[Dropped, ...]) -> None:
    for item in dropped:
        err.print(f"  CONFIG_{item.symbol}={escape(item.asked)} -> {escape(item.got)}: {escape(item.why)}")


def _explain(symbol: Symbol) -> None:
    if not symbol.type:
        out.print(f"{symbol.name}: this tree has no such symbol")
        return
    out.print(
        f"[bold]CONFIG_{symbol.name}[/]={escape(symbol.value)}  {symbol.type}, {symbol.place or 'without a prompt'}"
    )
    if symbol.prompt:
        out.print(f"  {escape(symbol.prompt)}")
    if symbol.depends:
        out.print(f"  depends on {escape(symbol.depends)}")
    if symbol.why:
        out.print(f"  because: {escape(symbol.why)}")
    elif symbol.value == "n":
        out.print(f"  nothing keeps it off: add --config {symbol.name}=y")


def settings(words: list[str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(fragments.setting(word) for word in words or ())


def _built(built: Built, run: Path, seconds: float) -> dict[str, Any]:
    compiled = sum(step.startswith(("CC ", "AS ")) for step in built.steps)
    why = built.rebuild.summary() if built.rebuild else ""
    release = built.kernel.release if built.kernel else built.image.name
    work = f"{compiled} files compiled" if built.steps else "nothing had changed"
    tree = built.kernel.tree if built.kernel else None
    return {
        "schema": _SCHEMA,
        "verdict": "pass",
        "summary": f"{release}: {work} in {seconds:.1f} s" + (f"; {why}" if why else ""),
        "next": f"kernloop run --kernel tree:{tree} -- uname -a" if built.kernel else f"the image: {built.image}",
        "exit_code": 0,
        "kernel": {
            "ref": built.kernel.ref,
            "release": built.kernel.release,
            "build_id": built.kernel.build_id,
            "sha256": built.kernel.digest,
            "image": str(built.kernel.image),
        }
        if built.kernel
        else None,
        "folder": str(built.folder),
        "log": str(built.log),
        "compiled": compiled,
        "steps": len(built.steps),
        "configured": built.configured,
        "new": plain(built.new[:_SHOWN]),
        "diagnostics": len(built.diagnostics),
        "seconds": round(seconds, 2),
        "run": str(run),
    }


def _failed(error: HarnessError, run: Path | None) -> dict[str, Any]:
    value = failure_json(_SCHEMA, error, run or Path())
    if run is None or isinstance(error, UsageError):
        del value["run"]  # there is none
    if isinstance(error, BuildFailed):
        value["new"] = plain(_errors_first(error.new)[:_SHOWN])
        value["diagnostics"] = plain(_errors_first(error.diagnostics)[:_SHOWN])
        value["log"] = str(error.log)
    if isinstance(error, ConfigError):
        value["dropped"] = plain(error.dropped)
    return value


def _errors_first(found: tuple[Diagnostic, ...]) -> list[Diagnostic]:
    return sorted(found, key=lambda one: not one.is_error)


# Errors first, then warnings that are new.
def _show(found: tuple[Diagnostic, ...], new: tuple[Diagnostic, ...]) -> None:
    errors = [d for d in found if d.is_error]
    told = [*errors, *(d for d in new if not d.is_error)]
    for item in told[:_SHOWN]:
        where = f"{item.file}:{item.line}:{item.column}: " if item.file else ""
        inside = f" (in {item.function})" if item.function else ""
        err.print(f"{escape(where)}{item.severity}: {escape(item.message)}{escape(inside)}")
        if item.source:
            err.print(f"    [dim]|[/] {escape(item.source)}")
    if len(told) > _SHOWN:
        err.print(f"... and {len(told) - _SHOWN} more")
