# SPDX-License-Identifier: Apache-2.0
"""`kernloop doctor`."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import Annotated

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.host import process
from kernloop.host.needs import (
    Distribution,
    Need,
    State,
    build_needs,
    debug_needs,
    distribution,
    host_needs,
    install_line,
    rust_needs,
)
from kernloop.present import plain
from kernloop.vm import needs as guest

_COLOUR = {State.OK: "green", State.LATER: "cyan", State.WARN: "yellow", State.MISSING: "red"}


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Install what is missing (root or sudo), fetch tools and kernel.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """What this machine has, what it lacks, and how to get it.

    0: everything is there or comes by itself. 125: something is missing.
    """
    where = distribution()
    ran: list[str] = []
    try:
        with progress() as say:
            say("looking at this machine")
            found = [*host_needs(where), *build_needs(where), *debug_needs(where), *rust_needs(where)]
            if fix:
                ran = _install(found, where)
                say("fetching tools and the default kernel, proving the accelerator")
                if not any(need.state is State.MISSING for need in host_needs(where)):
                    guest.fetch_all()
                found = [*host_needs(where), *build_needs(where), *debug_needs(where), *rust_needs(where)]
            found += guest.guest_needs()
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    missing = [need for need in found if need.state is State.MISSING]
    code = 125 if missing else 0
    if as_json:
        print_json(
            {
                "schema": "kernloop.doctor/1",
                "ok": not missing,
                "system": where.name,
                "ran": ran,
                "needs": plain(found),
                "exit_code": code,
            }
        )
    else:
        _show(found, where)
    raise typer.Exit(code)


def _show(found: list[Need], where: Distribution) -> None:
    for need in found:
        state = f"[{_COLOUR[need.state]}]{need.state:8}[/]"
        out.print(f"{state}{need.name:12} {escape(need.version)}")
        out.print(f"{'':20} [dim]{escape(need.why)}[/]")
        if need.cure:
            out.print(f"{'':20} -> {escape(need.cure)}")
    packages = _lacking(found)
    if packages:
        out.print(f"\nOn {where.name}: {install_line(packages, where)}")
        if where.family == "debian":
            out.print("or let kernloop do it: kernloop doctor --fix")


# Also what only some verbs want: whoever asks for all to be made ready means those as well.
def _lacking(found: list[Need]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for need in found for name in need.packages))


# Only on Debian and its kin, where the names are known to be right; elsewhere the line is printed for the user to run.
def _install(found: list[Need], where: Distribution) -> list[str]:
    packages = _lacking(found)
    if not packages:
        return []
    if where.family != "debian":
        err.print(f"kernloop installs packages on Debian and Ubuntu only; here: {install_line(packages, where)}")
        return []
    lead = [] if os.geteuid() == 0 else ["sudo", "-n"] if shutil.which("sudo") else None
    if lead is None:
        raise HarnessError("installing packages takes root, and there is no sudo", hint=install_line(packages, where))
    commands = [
        [*lead, "apt-get", "update", "-qq"],
        [*lead, "env", "DEBIAN_FRONTEND=noninteractive", *install_line(packages, where).split()],
    ]
    for command in commands:
        err.print(f"kernloop runs: {shlex.join(command)}")
        process.run(command, seconds=900, what="installing packages", hint=install_line(packages, where))
    return [shlex.join(command) for command in commands]
