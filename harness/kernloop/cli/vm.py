# SPDX-License-Identifier: Apache-2.0
"""`kernloop vm ...`: VMs that live on between calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kernloop.cli import vm_console, vm_exec, vm_ssh
from kernloop.cli.output import JsonFlag, err, escape, mark, out, print_json, progress
from kernloop.cli.run import mebibytes
from kernloop.cli.vm_shared import NameArgument, told
from kernloop.errors import UsageError
from kernloop.kernel.refs import DEFAULT
from kernloop.vm import client, saved, topology
from kernloop.vm.answers import VmInfo
from kernloop.vm.argv import DEFAULT_SHIFT
from kernloop.vm.request import IDLE_SECONDS, VmRequest

app = typer.Typer(
    help="VMs that live on between calls: start, exec, console, snapshot, ssh, stop.", no_args_is_help=True
)


def start(
    name: Annotated[str, typer.Option(help="How to call it; made up if not given.")] = "",
    backend: Annotated[str, typer.Option(help="micro: busybox only. vng: this machine's user space.")] = "micro",
    kernel: Annotated[str, typer.Option(help="debian:7.2, debian:newest, host, path:BZIMAGE.")] = DEFAULT,
    cpus: Annotated[str, typer.Option(help="vCPUs: 4, or 8,sockets=2,cores=2,threads=2.")] = "2",
    memory: Annotated[str, typer.Option(help="Guest memory: MiB, or with a unit, as in 2G.")] = "512M",
    append: Annotated[list[str] | None, typer.Option(help="Words for the kernel command line.")] = None,
    numa: Annotated[
        list[str] | None, typer.Option(help="A NUMA node, its vCPUs and memory: 0-3:256M. Once for each node.")
    ] = None,
    distance: Annotated[list[str] | None, typer.Option(help="Between two NUMA nodes: 0-1:21.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Run in virtual time.")] = None,
    shift: Annotated[
        int, typer.Option(min=0, max=10, help="In virtual time an instruction takes 2**SHIFT ns.")
    ] = DEFAULT_SHIFT,
    cold: Annotated[bool, typer.Option("--cold", help="Boot, do not restore the snapshot of a boot.")] = False,
    kgdb: Annotated[bool, typer.Option("--kgdb", help="A serial port for the kernel's debugger: debug kgdb.")] = False,
    dump: Annotated[bool, typer.Option("--dump", help="A crash or hang leaves a vmcore, for debug triage.")] = False,
    writable: Annotated[bool, typer.Option("--writable", help="A vng guest may write to this folder.")] = False,
    idle: Annotated[float, typer.Option(min=1, help="Stop after so many seconds without use.")] = IDLE_SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """Start a VM and return when it takes commands."""
    schema = "kernloop.vm-start/1"
    with told(as_json, schema):
        size = mebibytes(memory)
        shape = topology.numa(topology.parse_cpus(cpus), size, tuple(numa or ()), tuple(distance or ()))
        request = VmRequest(
            name,
            backend,
            kernel,
            shape,
            size,
            tuple(append or ()),
            seed,
            shift,
            cold,
            idle,
            folder=str(Path.cwd()),
            writable=writable,
            kgdb=kgdb,
            dump=dump,
        )
        _start(request, as_json, schema)


def _start(request: VmRequest, as_json: bool, schema: str) -> None:
    with progress() as say:
        vm = client.start(request, say=say)
    info = vm.info()
    if as_json:
        print_json({"schema": schema, **_row(info)})
    else:
        out.print(f"{vm.name}  {info.facts['release']}  {_seconds(info)}")
        how = "debug kgdb {} enter" if request.waits else "vm exec {} -- uname -a"
        err.print(f"  [bold]next:[/] kernloop {how.format(escape(vm.name))}")


def list_(as_json: JsonFlag = False) -> None:
    """The VMs that run, as they are now."""
    found = client.listing()
    if as_json:
        print_json({"schema": "kernloop.vm-list/1", "vms": [_row(info) for info in found]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "state", "kernel", "cpus", "memory", "uptime", "jobs", "kernel reports"):
        table.add_column(column, overflow="fold")
    for info in found:
        facts = info.facts
        running = [number for number, state in facts.get("jobs", {}).items() if state == "running"]
        table.add_row(
            escape(info.name),
            info.state,
            escape(str(facts.get("release") or facts.get("kernel"))),
            str(facts.get("cpus", "")),
            f"{facts.get('memory')} MiB",
            f"{facts.get('uptime', 0):.0f} s",
            " ".join(running),
            escape("; ".join(facts.get("reports", []))),
        )
    out.print(table if found else "no VM runs; kernloop vm start")
    for info in found:
        if then := info.facts.get("next"):
            out.print(f"[bold]{escape(info.name)}:[/] {escape(str(then))}")


def dump(
    name: NameArgument,
    path: Annotated[Path | None, typer.Argument(help="The file; in the run directory if not given.")] = None,
    elf: Annotated[bool, typer.Option("--elf", help="All memory as an ELF file, instead of kdump's format.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a vmcore of a VM, alive or panicked, for crash and drgn."""
    with told(as_json, "kernloop.vm-dump/1"):
        done = client.find(name).dump(path, elf=elf)
        if as_json:
            print_json({"schema": "kernloop.vm-dump/1", **done})
        else:
            out.print(f"{escape(done['path'])}  {done['format']}  {done['bytes'] >> 20} MiB")


def snapshot(
    name: NameArgument,
    tag: Annotated[str, typer.Argument(help="How to call what is saved.")],
    as_json: JsonFlag = False,
) -> None:
    """Save a VM as it is, to start others from it; it goes on."""
    with told(as_json, "kernloop.vm-snapshot/1"):
        done = client.find(name).snapshot(tag)
        if as_json:
            print_json({"schema": "kernloop.vm-snapshot/1", **done})
        else:
            out.print(f"{escape(tag)}  {done['bytes'] >> 20} MiB")
            err.print(f"  [bold]next:[/] kernloop vm restore {escape(tag)}")


def restore(
    tag: Annotated[str, typer.Argument(help="A saved VM, as in kernloop vm snapshots.")],
    name: Annotated[str, typer.Option(help="How to call the new VM; made up if not given.")] = "",
    idle: Annotated[float, typer.Option(min=1, help="Stop after so many seconds without use.")] = IDLE_SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """Start a VM from a saved one."""
    with told(as_json, "kernloop.vm-start/1"):
        saved.load(tag)
        _start(VmRequest(name, tag=tag, idle=idle), as_json, "kernloop.vm-start/1")


def snapshots(
    remove: Annotated[str, typer.Option(help="Remove this one.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """The saved VMs."""
    with told(as_json, "kernloop.vm-snapshots/1"):
        if remove:
            saved.remove(remove)
    found = saved.tags()
    if as_json:
        rows = [{"tag": s.tag, "path": str(s.path), "bytes": s.size, "age_seconds": round(s.age)} for s in found]
        print_json({"schema": "kernloop.vm-snapshots/1", "snapshots": rows})
        return
    for one in found:
        out.print(f"{escape(one.tag)}  {one.size >> 20} MiB  {one.age / 60:.0f} min old  {one.request.memory} MiB RAM")
    if not found:
        out.print("no VM is saved; kernloop vm snapshot NAME TAG")


def stop(
    names: Annotated[list[str] | None, typer.Argument(help="The VMs.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that run.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop VMs; their runs get a verdict."""
    schema = "kernloop.vm-stop/1"
    with told(as_json, schema):
        if bool(names) == everything:
            raise UsageError("name the VMs to stop, or say --all", hint="kernloop vm list")
        vms = (
            [client.VM(i.name, i.run) for i in client.listing()]
            if everything
            else [client.find(n) for n in names or ()]
        )
        verdicts = {vm.name: vm.stop() for vm in vms}
        if as_json:
            print_json({"schema": schema, "stopped": verdicts})
        else:
            for name, verdict in verdicts.items():
                out.print(f"{escape(name)}  {mark(verdict['verdict'])}  {escape(verdict['summary'])}")


def _row(info: VmInfo) -> dict[str, Any]:
    return {"name": info.name, "run": str(info.run), **info.facts, "state": info.state}


def _seconds(info: VmInfo) -> str:
    return "  ".join(f"{name} {seconds:.2f} s" for name, seconds in info.facts["times"].items())


# As `kernloop vm --help` shows them.
app.command()(start)
app.command("list")(list_)
app.command("exec")(vm_exec.exec_)
app.command()(vm_exec.job)
app.command()(vm_console.console)
app.command()(vm_console.wait)
app.command()(vm_exec.push)
app.command()(vm_exec.pull)
app.command()(vm_ssh.ssh)
app.command()(snapshot)
app.command()(restore)
app.command()(snapshots)
app.command()(dump)
app.command()(vm_console.sysrq)
app.command()(vm_console.nmi)
app.command()(vm_console.pause)
app.command()(vm_console.resume)
app.command()(stop)
