# SPDX-License-Identifier: Apache-2.0
"""`kernloop kernel`: list, fetch, info, path; build, config, source and patch have files of their own."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from kernloop.cli import kernel_build
from kernloop.cli.kernel_patch import patch
from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json, progress
from kernloop.errors import HarnessError
from kernloop.kernel import debian, refs, source
from kernloop.kernel.kernel import FACTS, Kernel

app = typer.Typer(help="Kernels: what there is, facts, building one from a tree.", no_args_is_help=True)
for _verb in (kernel_build.build, kernel_build.config, kernel_build.source, kernel_build.clean):
    app.command()(_verb)

_Ref = Annotated[str, typer.Argument(help="debian:7.2, debian:6.17, debian:newest, host, path:BZIMAGE, sha256:DIGEST")]


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """What is cached, and what can be fetched."""
    try:
        cached = refs.cached()
        note = ""
        try:
            known = debian.releases()
        except HarnessError as error:
            known, note = [], error.message
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    have = {found.release for found in cached}
    fetchable = [release for release in known if release.release not in have]
    if as_json:
        print_json(
            {
                "schema": "kernloop.kernel-list/1",
                "cached": [_short(found) for found in cached],
                "fetchable": [{"ref": f"debian:{r.number}", "release": r.release, "bytes": r.size} for r in fetchable],
                "note": note,
            }
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("reference", "release", "state", "sched_ext"):
        table.add_column(column)
    for found in cached:
        table.add_row(found.ref, found.release, "cached", _yes(found.has_sched_ext))
    for release in fetchable:
        table.add_row(f"debian:{release.number}", release.release, f"{release.size >> 20} MiB to fetch", "?")
    out.print(table)
    if note:
        err.print(f"[yellow]what can be fetched is not known:[/] {escape(note)}")


@app.command()
def fetch(ref: _Ref = refs.DEFAULT, as_json: JsonFlag = False) -> None:
    """Fetch a kernel, signature-checked, into the cache."""
    try:
        with progress() as say:
            say(f"fetching {ref}")
            found = refs.resolve(ref)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    if as_json:
        print_json({"schema": "kernloop.kernel-fetch/1", **_short(found)})
    else:
        out.print(f"{found.release} is cached: {found.image}")


@app.command()
def info(ref: _Ref = refs.DEFAULT, as_json: JsonFlag = False) -> None:
    """Release, build-id, config facts, sizes and source of a kernel."""
    try:
        with progress() as say:
            say(f"finding {ref}")
            found = refs.resolve(ref)
            origin = source.candidate(found)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    sizes = {
        "image": found.image.stat().st_size,
        "btf": found.btf.stat().st_size if found.btf else 0,
        "modules": sum(f.stat().st_size for f in found.modules.rglob("*.ko*")) if found.modules else 0,
    }
    if as_json:
        print_json(
            {
                "schema": "kernloop.kernel-info/1",
                **_short(found),
                "banner": found.banner,
                "config": {symbol: found.has(symbol) for symbol in FACTS},
                "bytes": sizes,
                "source": {"package": origin.package, "version": origin.version, "exact": origin.exact}
                if origin
                else None,
            }
        )
        return
    out.print(f"[bold]{found.release}[/]  ({found.ref})")
    out.print(f"  banner     {escape(found.banner)}")
    out.print(f"  build-id   {found.build_id or 'none'}")
    out.print(f"  sha256     {found.digest}")
    out.print(f"  image      {found.image}  {sizes['image'] >> 10} KiB")
    out.print(f"  modules    {sizes['modules'] >> 10} KiB   BTF {sizes['btf'] >> 10} KiB")
    if origin:
        out.print(f"  source     {origin.package} {origin.version}{'' if origin.exact else '  (nearest there is)'}")
    on = [symbol for symbol in FACTS if found.has(symbol)]
    off = [symbol for symbol in FACTS if found.has(symbol) is False]
    out.print(f"  on         {' '.join(on) or 'the config is not known'}")
    out.print(f"  off        {' '.join(off) or '-'}")


@app.command()
def path(ref: _Ref = refs.DEFAULT, as_json: JsonFlag = False) -> None:
    """Print the path of a kernel's bzImage, fetching it if need be."""
    try:
        found = refs.resolve(ref)
    except HarnessError as error:
        raise fail(error, as_json=as_json) from None
    if as_json:
        print_json({"schema": "kernloop.kernel-path/1", **_short(found)})
    else:
        out.print(str(found.image))


app.command()(patch)


def _short(found: Kernel) -> dict[str, Any]:
    return {
        "ref": found.ref,
        "release": found.release,
        "build_id": found.build_id,
        "sha256": found.digest,
        "image": str(found.image),
        "sched_ext": found.has_sched_ext,
    }


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
