# SPDX-License-Identifier: Apache-2.0
"""The questions to drgn, on the memory of a guest or of a dump, in the session that keeps it open.

`ask` is for whoever wants to know; `answered` runs in the session's process (kernloop.debug.session.owner), where a
question that does not end is ended.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernloop.debug.questions.told import By, Of, Told, asked_of, tree_of
from kernloop.debug.session import client as sessions
from kernloop.errors import HarnessError, UsageError
from kernloop.vm import wire
from kernloop.vm.client import VM

__all__ = ["answered", "ask"]

# A tick on a CPU that stands in panic() takes 12 of them.
_CALLS = 24
_DEEP = 64
_ELEMENTS = 400
_VALUES = 4000
# What C says and Python does not.
_ARROW, _STAR = re.compile(r"->"), re.compile(r"^\s*\*\s*")


def ask(subject: VM | Path, question: str, seconds: float, **words: Any) -> Told:
    """The answer to `question`: backtrace, read, tasks or locals. Raises HarnessError, also after `seconds`."""
    session = sessions.attach(subject.name if isinstance(subject, VM) else subject)
    # A session evaluates what it is given: here, a call of ours, whose answer is a text that it passes on as it is.
    asked = json.dumps({"question": question, **words})
    call = f"__import__({__name__!r}, fromlist=['answered']).answered(prog, {asked!r})"
    text = str(session.evaluate(call, timeout=seconds)["value"])
    tree = tree_of(subject.run if isinstance(subject, VM) else subject.parent)
    value = json.loads(text.replace(tree, "") if tree else text)
    if "error" in value:
        raise wire.raised(value["error"])
    return Told(By(value["by"]), value["still"], value["name"], tuple(value["rows"]), value["head"], value["more"])


def answered(prog: Any, asked: str) -> str:
    """What `ask` asked for, as JSON."""
    from drgn import FaultError

    words = json.loads(asked)
    try:
        told = _ANSWERS[words.pop("question")](prog, **words)
    except HarnessError as error:
        return json.dumps(wire.failure(error))
    except (FaultError, LookupError) as error:
        hint = "it changed while it was read, or is damaged: ask again, or control interrupt first"
        return json.dumps(wire.failure(HarnessError(f"the memory does not make sense: {error}", hint=hint)))
    value = {"by": told.by, "still": told.still, "name": told.name, "rows": told.rows, "more": told.more}
    return json.dumps({**value, "head": dict(told.head)}, default=str)


def _backtrace(prog: Any, of: str) -> Told:
    from kernloop.debug.helpers.tasks import runqueues, who
    from kernloop.debug.stacks import Stacks, on_cpu

    stacks, wanted = Stacks(prog), asked_of(of)
    if wanted.pid is not None:
        task = _task(prog, wanted.pid)
        running = "runs now" if on_cpu(task) else ""
        frames = _frames(prog, stacks, task)
        return _told(prog, "frames", frames, {"of": f"{wanted.pid} {who(task).comm}", "task": running})
    rows = []
    for rq in runqueues(prog):
        if wanted.cpu not in (None, rq.cpu):
            continue
        registers, stack = stacks.cpus.get(rq.cpu), stacks.of_cpu(rq.cpu)
        off = ", interrupts off" if registers and not registers.interrupts and not rq.idle else ""
        what = "idle" if rq.idle else str(rq.current)
        one: dict[str, Any] = {"of": f"cpu {rq.cpu}: {what}{off}"}
        one["frames"] = [f"#{level} {call}" for level, call in enumerate(stack.calls[:_CALLS])]
        rows.append(one | ({} if stack.whole or stack.calls else {"why": stack.why}))
    if not rows:
        raise UsageError(f"there is no CPU {wanted.cpu} online", hint="of='cpus' has all")
    if wanted.cpu is not None:
        return _told(prog, "frames", rows[0]["frames"], {"of": rows[0]["of"], "why": rows[0].get("why", "")})
    return _told(prog, "stacks", rows)


def _read(prog: Any, what: str, depth: int, size: int, skip: int) -> Told:
    from kernloop.debug import ask as asking
    from kernloop.debug.values import Limits

    expression = _expression(prog, what)
    if size:
        found = asking.evaluate(prog, f"prog.read(int({expression}), {size}).hex()", Limits())
        return _told(prog, "bytes", [found.value])
    limits = Limits(depth=depth + 1, elements=skip + _ELEMENTS, values=_VALUES)
    found = asking.evaluate(prog, expression, limits)
    value = found.value
    if isinstance(value, dict) and set(value) == {"type", "value"}:
        value = value["value"]
    rows = value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        rows = [f"{name} = {_short(one)}" for name, one in value.items()]
    head = {"type": found.type, "printed": found.output}
    return Told(By.DRGN, _still(prog), "value", tuple(map(_short, rows)), head, found.next is not None)


def _tasks(prog: Any, like: str, skip: int, most: int) -> Told:
    from kernloop.debug.helpers.tasks import ps

    # Who waits, or is kept from running, comes before who runs, and both before who sleeps.
    listed = sorted(ps(prog), key=lambda row: (not (row.state == "D" or row.waited), not row.running))
    rows = []
    for row in listed:
        waits = f", runnable for {row.waited:.2f} s without a CPU" if row.waited else ""
        text = f"{row.who.pid} {row.name} {row.state} cpu {row.cpu}"
        text += (" running" if row.running else "") + waits + (f" {row.policy}" if row.policy != "other" else "")
        rows.append((text, row))
    fit = [(text, row) for text, row in rows if re.search(like, text)]
    from kernloop.debug.stacks import Stacks

    # A stack is more work than a row: those that are shown now.
    stacks = Stacks(prog)
    told = [text for text, _ in fit[:skip]]
    for text, row in fit[skip : skip + most]:
        told.append(text + _asleep(prog, stacks, row))
    return _told(prog, "tasks", [*told, *(text for text, _ in fit[skip + most :])], {"count": len(fit)})


def _locals(prog: Any, of: str, frame: int) -> Told:
    from drgn import FaultError, ObjectAbsentError

    from kernloop.debug.target import about
    from kernloop.debug.values import Limits, plain

    wanted = asked_of(of)
    if about(prog).vmlinux is None:
        raise UsageError("locals need debugging information: this kernel has none", hint="boot one from a tree")
    task = _task(prog, wanted.pid) if wanted.pid is not None else _current(prog, wanted)
    trace = _trace(prog, task)
    if trace is None:
        raise UsageError("it runs: where it is changes", hint="control: interrupt; then locals")
    if frame >= len(trace):
        raise UsageError(f"there is no frame {frame}", hint=f"0 to {len(trace) - 1}")
    chosen = trace[frame]
    rows = []
    for name in chosen.locals():
        try:
            found = chosen[name]
            value = "<optimized out>" if found.absent_ else _short(plain(found, Limits(depth=1, elements=16)))
        except (FaultError, ObjectAbsentError, LookupError):
            value = "<optimized out>"
        rows.append(f"{name} = {value}")
    return _told(prog, "locals", rows, {"in": _place(frame, chosen)})


_ANSWERS: dict[str, Callable[..., Told]] = {"backtrace": _backtrace, "read": _read, "tasks": _tasks, "locals": _locals}


def _told(prog: Any, name: str, rows: Any, head: dict[str, Any] | None = None) -> Told:
    return Told(By.DRGN, _still(prog), name, tuple(rows), head or {})


def _still(prog: Any) -> bool:
    from kernloop.debug.target import about

    return about(prog).still


def _task(prog: Any, pid: int) -> Any:
    from drgn.helpers.linux.pid import find_task

    task = find_task(prog, pid)
    if not task:
        raise UsageError(f"there is no task {pid}", hint="tasks lists them")
    return task


def _current(prog: Any, wanted: Of) -> Any:
    from kernloop.debug.stacks import Stacks

    if wanted.cpu is None:
        raise UsageError("drgn has stopped nothing: whose locals?", hint="of: a pid, or cpu 0")
    return Stacks(prog).current(wanted.cpu)


# With lines and locals, where there is debugging information; None of a task that runs in a guest that lives.
def _trace(prog: Any, task: Any) -> Any:
    from kernloop.debug.stacks import on_cpu
    from kernloop.debug.target import about

    target = about(prog)
    if target.vmlinux is None or (on_cpu(task) and target.state != "dump"):
        return None
    try:
        return prog.stack_trace(task)
    except (ValueError, LookupError):
        return None


def _frames(prog: Any, stacks: Any, task: Any) -> list[str]:
    trace = _trace(prog, task)
    if trace is None:
        return [f"#{level} {call}" for level, call in enumerate(stacks.of(task).calls[:_DEEP])]
    return [_place(level, frame) for level, frame in enumerate(trace)]


def _place(level: int, frame: Any) -> str:
    name: str = frame.name or hex(frame.pc)
    try:
        file, line, _ = frame.source()
    except LookupError:
        return f"#{level} {name}"
    return f"#{level} {name} {file}:{line}{' inlined' if frame.is_inline else ''}"


def _asleep(prog: Any, stacks: Any, row: Any) -> str:
    from drgn import Object

    if row.running:
        return ""
    task = Object(prog, "struct task_struct *", row.who.address)
    call = next((one for one in stacks.of(task).calls if not re.match(r"_*schedule|context_switch", one.name)), None)
    return f" in {call}" if call else ""


# As Python: what is no name there is a variable of the kernel, and C's arrows and stars are understood.
def _expression(prog: Any, what: str) -> str:
    from kernloop.debug.names import names

    text = _ARROW.sub(".", what)
    if star := _STAR.match(text):
        text = f"({text[star.end() :]})[0]"
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        hint = "as in init_task.comm, scx_root->ops.name, cast('struct rq *', 0xffff...).curr, ps(), help()"
        raise UsageError(f"drgn takes Python, and C's -> and *: {error.msg}", hint=hint) from None
    known = {*names(prog), *dir(builtins)}
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    class Named(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if node.id in known or node.id in own:
                return node
            return ast.parse(f"prog[{node.id!r}]", mode="eval").body

    return ast.unparse(Named().visit(tree))


# Fewer marks than JSON needs in a text of JSON.
def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_short(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, default=str)
