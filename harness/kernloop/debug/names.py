# SPDX-License-Identifier: Apache-2.0
"""What expressions and scripts of `debug drgn` can say: drgn's own names, its helpers, and ours with a word each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import drgn
import drgn.helpers.linux as linux
from drgn import Object, Program
from drgn.helpers.linux.pid import find_task

from kernloop.debug import whyhung
from kernloop.debug.code import code_of
from kernloop.debug.helpers import bpf_rows, chains, logs, memory, modules, per_cpu, spins, tasks, waits, walkers
from kernloop.debug.stacks import Stacks
from kernloop.debug.target import about

__all__ = ["names"]


def names(prog: Program) -> dict[str, Any]:
    own = {name: one for name, one, _ in _own(prog)}
    known: dict[str, Any] = {name: getattr(drgn, name) for name in drgn.__all__}
    known |= {name: getattr(linux, name) for name in getattr(linux, "__all__", dir(linux)) if not name.startswith("_")}
    return {**known, **own, "prog": prog, "help": lambda: [text for _, _, text in _own(prog)]}


def _own(prog: Program) -> Iterator[tuple[str, Callable[..., Any], str]]:
    def say(text: str, one: Callable[..., Any]) -> tuple[str, Callable[..., Any], str]:
        return text.partition("(")[0], one, text

    yield say("ps(): each thread: state, CPU, policy, how long it waits", lambda: tasks.ps(prog))
    yield say("task(pid or comm): its struct task_struct *", lambda which: _task(prog, which))
    yield say("stack(task, pid or comm): its calls", lambda which: Stacks(prog).of(_task(prog, which)))
    yield say("cpu_stack(cpu): the calls of what a CPU runs", lambda cpu: Stacks(prog).of_cpu(cpu))
    yield say("registers(): of each CPU", lambda: about(prog).cpus)
    yield say("runqueues(): what each CPU runs, how many wait", lambda: tasks.runqueues(prog))
    yield say("scx(): all of sched_ext: scheduler, DSQs, CPUs, tasks on no DSQ", lambda: _scx(prog))
    yield say("dsqs(): the DSQs that have tasks, with these in order", lambda: _dsqs(prog))
    yield say("scx_tasks(): each task of sched_ext, and where it is", lambda: _scx_tasks(prog))
    yield say("why_hung(): deadlocks, lost wake-ups, kept CPUs, stalls", lambda: whyhung.investigate(prog))
    yield say("waits(): tasks that sleep for a lock, or in D", lambda: waits.waits(prog, Stacks(prog)))
    yield say("chains(): who waits for whom, to the end", lambda: chains.chains(prog, Stacks(prog)))
    yield say(
        "who_holds(lock, kind): of an object, a variable's name or an address: mutex rwsem semaphore spinlock ...",
        lambda lock, kind="": chains.who_holds(prog, Stacks(prog), lock, kind),
    )
    yield say("lock(kind, address): holder and queue", lambda kind, at: waits.lock_at(prog, kind, int(at)))
    yield say("spins(): CPUs that spin for a lock", lambda: spins.spins(prog, Stacks(prog)))
    yield say("holders(address): who seems to hold a spinlock", lambda at: spins.holders(prog, Stacks(prog), int(at)))
    yield say(
        "dmesg(since=0, count=200): the log's last lines, or from a sequence number on",
        lambda since=0, count=200: logs.dmesg(prog, since, count),
    )
    yield say("modules(): what is loaded, and where", lambda: modules.modules(prog))
    yield say("name(address): the function or variable there", lambda at: _name(prog, int(at)))
    yield say("slab(address): the object of a slab cache that has it", lambda at: memory.slab_object(prog, int(at)))
    yield say("page(address or struct page *): whose it is", lambda at: memory.page(prog, at))
    yield say("per_cpu_diff(variable): where CPUs differ", lambda name: per_cpu.differences(prog, name))
    yield say("bpf_programs(): all that are loaded", lambda: bpf_rows.bpf_programs(prog))
    yield say("bpf_maps(): all", lambda: bpf_rows.bpf_maps(prog))
    yield say("bpf_map(id or name): its elements", lambda which: bpf_rows.bpf_map(prog, which))
    yield say("bpf_variables(id or name): those in .bss, .data, .rodata", lambda at: bpf_rows.bpf_variables(prog, at))
    yield say(
        "walk_list(head, 'struct x', 'member'): pointers; of a name, an address or an object",
        lambda *words: walkers.walk_list(prog, *words),
    )
    yield say("walk_hlist(head, 'struct x', 'member')", lambda *words: walkers.walk_hlist(prog, *words))
    yield say("walk_rbtree(root, 'struct x', 'member'): in order", lambda *words: walkers.walk_rbtree(prog, *words))
    yield say("walk_xarray(array, 'struct x'): index, pointer", lambda *words: walkers.walk_xarray(prog, *words))
    yield say("walk_hash(rhashtable, 'struct x', 'member')", lambda *words: walkers.walk_hash(prog, *words))


def _task(prog: Program, which: Any) -> Object:
    if isinstance(which, Object) and which.type_.kind.name == "POINTER":
        return which
    if isinstance(which, str):
        found = next(
            (one for one in tasks.every_task(prog) if one.comm.string_().decode(errors="replace") == which), None
        )
    else:
        found = find_task(prog, int(which)) or None
    if found is None:
        raise LookupError(f"no task {which}; ps() lists them")
    return found


def _name(prog: Program, address: int) -> str:
    code = code_of(prog)
    return code.data(address) if not code.in_image(address) and code.data(address) else code.name(address)[0]


# sched_ext's half of the library is what only a kernel with a scheduler takes.
def _scx(prog: Program) -> Any:
    from kernloop.sched.live.look import look

    return look(prog, most_tasks=64)


def _dsqs(prog: Program) -> list[Any]:
    seen = _scx(prog)
    return [queue for queue in (*seen.queues, *(cpu.local for cpu in seen.cpus)) if queue.count]


def _scx_tasks(prog: Program) -> Any:
    from kernloop.sched.live.every import every

    return every(prog)
