# SPDX-License-Identifier: Apache-2.0
"""`kernloop sched show VM`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernloop.cli.output import JsonFlag, err, escape, fail, out, print_json
from kernloop.errors import HarnessError

if TYPE_CHECKING:
    from kernloop.debug.bpf import Page
    from kernloop.sched.live.model import Cpu, Queue, Scheduler, Seen, Task
    from kernloop.sched.live.show import Shown, ShownMap

__all__ = ["show"]

_SCHEMA = "kernloop.sched-show/1"
_WIDEST = 160
_MOST_VARIABLES = 24
# As kernloop.sched.live.show.LONG, which takes drgn to import.
_LONG = 1.0


def show(
    vm: Annotated[str, typer.Argument(help="The VM, as in kernloop vm list.")],
    hold: Annotated[bool, typer.Option("--hold", help="Let the guest stand still while it is read.")] = False,
    tasks: Annotated[int, typer.Option(min=0, help="So many tasks of each queue.")] = 16,
    every: Annotated[bool, typer.Option("--all", help="Empty queues and idle CPUs as well.")] = False,
    map_name: Annotated[str, typer.Option("--map", help="The elements of a map, by name or id, instead.")] = "",
    since: Annotated[int, typer.Option(min=0, help="With --map: from this element on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="So many queues, tasks on none, or elements of --map.")] = 64,
    as_json: JsonFlag = False,
) -> None:
    """A VM's scheduler by the guest's memory: queues, tasks, CPUs, maps.

    The guest need do nothing for it: it may be stuck, paused or dead.

    Exit status: 0 also when none is loaded, 2 no such VM or map, or no sched_ext, 125 the memory cannot be read.
    """
    from kernloop.vm import client

    try:
        found = client.find(vm)
        from kernloop.sched.live import show as library  # drgn takes 0.1 s

        if map_name:
            one, page = library.contents(found, map_name, since=since, count=limit, hold=hold)
            _tell_map(vm, one, page, as_json)
            return
        shown = library.show(found, hold=hold, most_tasks=tasks)
    except HarnessError as error:
        raise fail(error, as_json=as_json, schema=_SCHEMA) from None
    if as_json:
        print_json(_as_json(shown, every=every, limit=limit))
    else:
        _tell(shown, every=every, limit=limit)


def _as_json(shown: Shown, *, every: bool, limit: int) -> dict[str, Any]:
    seen = shown.seen
    queues = _busy(seen, every)
    return {
        "schema": _SCHEMA,
        "summary": shown.summary,
        "next": shown.next,
        "vm": shown.vm,
        "vm_state": shown.vm_state,
        "release": shown.release,
        "still": shown.still,
        "held": shown.held,
        "seconds": shown.seconds,
        "state": seen.state,
        "switched_all": seen.switched_all,
        "enable_seq": seen.enable_seq,
        "nr_rejected": seen.rejected,
        "watchdog_ago": seen.watchdog_ago,
        "schedulers": [asdict(one) for one in seen.schedulers],
        "off_queue": [asdict(one) for one in seen.off_queue[:limit]],
        "off_queue_total": len(seen.off_queue),
        "queues": [asdict(one) for one in queues[:limit]],
        "queues_total": len(seen.queues),
        "queues_left_out": len(seen.queues) - min(len(queues), limit),
        "cpus": [asdict(one) for one in seen.cpus],
        "maps": [_map_row(one) for one in shown.maps],
        "notes": list(seen.notes),
        "exit_code": 0,
    }


def _map_row(one: ShownMap) -> dict[str, Any]:
    return asdict(one.info) | ({"variables": one.variables} if one.info.section else {})


def _busy(seen: Seen, every: bool) -> list[Queue]:
    return [queue for queue in seen.queues if every or queue.count or not queue.steady]


def _tell(shown: Shown, *, every: bool, limit: int) -> None:
    seen = shown.seen
    out.print(f"[bold]{escape(shown.summary)}[/]")
    how = "stood still" if shown.still else "ran on, so parts may be of slightly different moments"
    out.print(f"  [dim]{escape(shown.vm)} ({escape(shown.release)}) is {shown.vm_state}; while it was read it {how}[/]")
    for one in seen.schedulers:
        _tell_scheduler(one, seen)
    if not seen.schedulers:
        out.print(f"  schedulers enabled since boot: {seen.enable_seq}")
    if seen.off_queue:
        colour = "bold red" if seen.off_queue[0].waiting >= _LONG else "bold"
        out.print(f"\n[{colour}]Runnable, and on no DSQ[/]")
        _tell_tasks(seen.off_queue[:limit])
        if len(seen.off_queue) > limit:
            out.print(f"  ... {len(seen.off_queue) - limit} more: --limit")
    _tell_queues(seen, every, limit)
    _tell_cpus([cpu for cpu in seen.cpus if cpu.online or every])
    if shown.maps:
        out.print("\n[bold]Maps[/]")
        for each in shown.maps:
            _tell_map_line(each)
    for note in seen.notes:
        out.print(f"  note: {escape(note)}")
    if shown.next:
        err.print(f"  [bold]next:[/] {escape(shown.next)}")


def _tell_scheduler(one: Scheduler, seen: Seen) -> None:
    below = f" (level {one.level}, {one.path})" if one.level else ""
    facts = [f"flags {' '.join(one.flags) or 'none'}", f"watchdog {one.timeout:g} s"]
    if seen.watchdog_ago is not None and not one.level:
        facts.append(f"last looked {seen.watchdog_ago:.1f} s ago")
    if one.slice is not None:
        facts.append(f"default slice {one.slice / 1e6:g} ms")
    if one.bypass_depth is not None:
        facts.append(f"bypass depth {one.bypass_depth}")
    facts.append("all tasks" if seen.switched_all else "tasks of SCHED_EXT only")
    out.print(f"\n[bold]{escape(one.name)}[/]{escape(below)}  {escape('; '.join(facts))}")
    if one.exit:
        code = f", code {one.exit.code:#x}" if one.exit.code else ""
        why = escape(f"{one.exit.reason} {one.exit.message}")
        out.print(f"  [red]exit {one.exit.kind} ({one.exit.number}){code}[/]: {why}")
    if one.programs:
        out.print("  ops " + escape(" ".join(one.programs)))
    events = " ".join(f"{name}={count}" for name, count in one.events.items() if count)
    if events:
        out.print(f"  events {escape(events)}")


def _tell_queues(seen: Seen, every: bool, limit: int) -> None:
    queues = _busy(seen, every)
    empty = len(seen.queues) - len(queues)
    if not seen.queues:
        return
    out.print("\n[bold]DSQs[/]" + (f"  [dim]{empty} empty ones not shown: --all[/]" if empty else ""))
    for queue in queues[:limit]:
        _tell_queue(queue)
    if len(queues) > limit:
        out.print(f"  ... {len(queues) - limit} more: --limit")


def _tell_queue(queue: Queue) -> None:
    owner = f" of {queue.owner}" if queue.owner else ""
    kind = "" if queue.kind == "builtin" else " user"
    changing = "  [yellow]changed while it was read[/]" if not queue.steady else ""
    count = f"{queue.count} task{'s' * (queue.count != 1)}"
    out.print(f"  [bold]{queue.name}[/]{kind}{owner} {queue.order or 'empty'}, {count}{changing}")
    _tell_tasks(queue.tasks)
    if queue.count > len(queue.tasks) and queue.steady:
        out.print(f"    ... {queue.count - len(queue.tasks)} more: --tasks")


def _tell_tasks(tasks: tuple[Task, ...]) -> None:
    for task in tasks:
        who = f"{task.comm}[{task.pid}]".replace("\n", " ")
        where = {"scheduler": "  held by the scheduler", "core": "  held by the core"}.get(task.held, "")
        where += f", in {task.own_queue}" * bool(task.own_queue)
        pinned = f" migration disabled {task.migration_disabled}" if task.migration_disabled else ""
        out.print(
            f"    {escape(who):<24} waits {task.waiting:8.3f} s  weight {task.weight:<5} slice {task.slice / 1e6:g} ms"
            f"  vtime {task.vtime}  cpus {task.cpus}{pinned}  {escape(' '.join(task.flags))}{where}"
        )


def _tell_cpus(cpus: list[Cpu]) -> None:
    out.print("\n[bold]CPUs[/]")
    for cpu in cpus:
        extra = [f"{name} {mask}" for name, mask in cpu.kicks.items()]
        extra += ["released"] if cpu.released else []
        extra += ["bypassed"] if cpu.bypassed else []
        extra += [] if cpu.online else ["offline"]
        current = f"{cpu.current}[{cpu.current_pid}]".replace("\n", " ")
        out.print(
            f"  {cpu.cpu:<3} {escape(current):<24} {cpu.current_class:<5} ext {cpu.running} of {cpu.all_running}"
            f"  local DSQ {cpu.local.count}  {escape(' '.join([*cpu.flags, *extra]))}"
        )
        _tell_tasks(cpu.local.tasks)


def _tell_map_line(one: ShownMap) -> None:
    info = one.info
    held = "" if info.entries is None else f"{info.entries}" + f" of {info.max_entries}" * bool(info.max_entries)
    sizes = f"key {info.key_size} value {info.value_size}"
    out.print(f"  {info.id:<4} {escape(info.name):<18} {info.type:<14} {sizes}  {held}")
    if info.section in (".bss", ".data"):
        # The formats of bpf_printk() are variables as well.
        known = [(name, value) for name, value in (one.variables or {}).items() if "___fmt" not in name]
        if len(known) > _MOST_VARIABLES:
            out.print(f"       {len(known) - _MOST_VARIABLES} more variables: --json")
        for name, value in known[:_MOST_VARIABLES]:
            text = repr(value)
            out.print(f"       {escape(name)} = {escape(text[:_WIDEST])}{'...' * (len(text) > _WIDEST)}")


def _tell_map(vm: str, one: ShownMap, page: Page, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "schema": "kernloop.sched-map/1",
                **_map_row(one),
                "elements": [asdict(each) for each in page.elements],
                "since": page.since,
                "cursor": page.cursor,
                "exit_code": 0,
            }
        )
        return
    _tell_map_line(one)
    for each in page.elements:
        out.print(f"  {escape(str(each.key))}: {escape(str(each.value))}")
    if page.cursor is not None:
        err.print(
            f"  [bold]next:[/] kernloop sched show {escape(vm)} --map {escape(one.info.name)} --since {page.cursor}"
        )
