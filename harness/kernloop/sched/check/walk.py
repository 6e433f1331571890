# SPDX-License-Identifier: Apache-2.0
"""A walk through all ways of a BPF program, with what is known of values on each: what the rules look at.

Each way keeps its numbers, what its branches have found out, and what was done with the task (`state.Prop`). Calls of
subprograms are walked into. Where ways join they are kept apart as long as they are few, and joined when they are many,
so that the walk ends; a program that takes more than its budget of steps is not `complete`.
"""

from __future__ import annotations

from kernloop.sched.check import calls
from kernloop.sched.check.branch import Branch, decide
from kernloop.sched.check.liveness import Shape, shape_of
from kernloop.sched.check.loads import SIZE, Loads, place_of
from kernloop.sched.check.state import Frame, Path, Prop, State, covers, join
from kernloop.sched.check.symbols import BIG, Sym, Symbols, Value
from kernloop.sched.check.trace import Event, Trace
from kernloop.sched.obj.model import Insn, Program
from kernloop.sched.obj.world import World

__all__ = ["Walker"]

_MAX_FRAMES = 10
_MAX_EVENTS = 6000
# Instructions of a look at one function: the largest have a few thousand, and some are gone through more than once.
_ALONE = 20000
_ALU = {
    0x00: "add",
    0x10: "sub",
    0x20: "mul",
    0x30: "div",
    0x40: "or",
    0x50: "and",
    0x60: "lsh",
    0x70: "rsh",
    0x90: "mod",
    0xA0: "xor",
    0xC0: "arsh",
}
# What a scheduler's author does with the task so that others find it.
_KEEPERS = frozenset(
    [
        "bpf_kptr_xchg",
        "bpf_list_push_front_impl",
        "bpf_list_push_back_impl",
        "bpf_list_push_front",
        "bpf_list_push_back",
        "bpf_rbtree_add_impl",
        "bpf_rbtree_add",
        "bpf_ringbuf_submit",
        "bpf_ringbuf_output",
        "bpf_map_update_elem",
        "bpf_map_push_elem",
        "bpf_perf_event_output",
        "bpf_dynptr_write",
    ]
)
# Atomic or, and, exchange, compare and exchange (include/uapi/linux/bpf.h): not what counters use.
_FLAGGING = frozenset([0x40, 0x50, 0xE0, 0xF0])
_INSERTS = frozenset(["insert", "insert_vtime"])


class Walker:
    """Walks the programs of one object beside a kernel: what `world` says that it lacks is not come to."""

    def __init__(self, world: World, budget: int) -> None:
        obj = world.obj
        self.obj = obj
        self.world = world
        self.symbols = Symbols()
        self.budget = budget
        self.callbacks: dict[str, str] = {}
        self._programs = list(obj.programs.values())
        self._number = {name: number for number, name in enumerate(obj.programs)}
        self._shapes: dict[int, Shape] = {}
        self.variables = {(one.section, one.offset): one.name for one in obj.variables.values()}

    def program(self, site: int) -> Program:
        return self._programs[site >> 20]

    def insn(self, site: int) -> Insn:
        return self._programs[site >> 20].insns[site & 0xFFFFF]

    def shape(self, number: int) -> Shape:
        found = self._shapes.get(number)
        if found is None:
            found = self._shapes[number] = shape_of(self._programs[number], self.obj)
        return found

    def walk(self, entry: str, op: str, steps: int, apart: int) -> Trace:
        """All ways through program `entry`, which the kernel calls as `op`; at most `steps` instructions.

        So many ways (`apart`) as come to one place are kept apart; more are joined.
        """
        return _Run(self, entry, op, min(steps, self.budget), apart).go()

    def number(self, name: str) -> int | None:
        return self._number.get(name)

    def alone(self, name: str) -> Trace:
        """Only the `sites` of one function for any arguments, ways joined at once, what it calls not looked into.

        Of values numbers alone are kept: enough for what the kernel has and has not, and it ends soon.
        """
        return _Run(self, name, "", _ALONE, 1, inside=False).go()


class _Run:
    def __init__(self, walker: Walker, entry: str, op: str, steps: int, apart: int, *, inside: bool = True) -> None:
        self.apart = apart
        self.inside = inside
        self.walker = walker
        self.symbols = walker.symbols
        self.op = op
        self.loads = Loads(walker.world, walker.symbols, walker.variables, op)
        self.trace = Trace(entry, op, apart=apart > 1)
        self.left = steps
        self.work: list[State] = []
        self.seen: dict[object, list[State]] = {}
        self.joined: dict[object, int] = {}
        self.tracks_task = op in ("enqueue", "select_cpu")
        self.said: set[object] = set()

    def go(self) -> Trace:
        number = self.walker.number(self.trace.entry)
        assert number is not None
        regs: list[Value | None] = [None] * 11
        make = self.symbols.make
        if self.walker._programs[number].role == "subprog":
            for at in range(1, 6):
                regs[at] = make("arg", at - 1)
        else:
            regs[1] = make("ctx")
        regs[10] = make("fp", 0, 0)
        self.work.append(State(number, 0, regs, {}, {}, Prop(), (), None))
        while self.work:
            if self.left <= 0 or len(self.trace.events) > _MAX_EVENTS:
                self.trace.complete = False
                break
            self._run(self.work.pop())
        self.walker.budget -= self._used
        return self.trace

    _used = 0

    # One way, until it ends or is known.
    def _run(self, state: State) -> None:
        walker = self.walker
        program = walker._programs[state.program]
        shape = walker.shape(state.program)
        insns = program.insns
        make = self.symbols.make
        operate = self.symbols.op
        regs = state.regs
        while True:
            index = state.index
            if index in shape.merges and not self._new(state, shape):
                return
            regs = state.regs
            self.left -= 1
            self._used += 1
            if self.left <= 0:
                self.trace.complete = False
                return
            insn = insns[index]
            code = insn.code
            cls = code & 7
            site = state.program << 20 | index
            state.index = index + 1
            core = insn.core
            if core is not None:
                self.trace.sites.add(site)
            if cls == 7 or cls == 4:
                name = _ALU.get(code & 0xF0)
                wide = cls == 7
                right: Value | None = regs[insn.src] if code & 8 else insn.imm & ((1 << 64) - 1)
                if name is None:
                    if code & 0xF0 == 0xB0:
                        if core is not None:
                            right = self.loads.asked(core, insn)
                        if not wide and isinstance(right, int):
                            right &= 0xFFFFFFFF
                        if code & 8 and insn.off in (8, 16, 32) and isinstance(right, int):
                            bit = 1 << (insn.off - 1)
                            right = (((right & (2 * bit - 1)) ^ bit) - bit) & ((1 << 64) - 1)
                        elif not wide and isinstance(right, Sym) and _high_constant(right):
                            right = operate("and", right, 0xFFFFFFFF, site, True)
                        regs[insn.dst] = right
                    elif code & 0xF0 == 0x80:
                        left = regs[insn.dst]
                        regs[insn.dst] = None if left is None else operate("sub", 0, left, site, wide)
                    else:
                        regs[insn.dst] = make("unk", site)
                    continue
                left = regs[insn.dst]
                if core is not None and name == "add" and isinstance(left, Sym):
                    regs[insn.dst] = make("fldp", left, core.name)
                elif left is None or right is None:
                    regs[insn.dst] = make("unk", site)
                elif name in ("xor", "sub") and left is right and isinstance(left, Sym):
                    regs[insn.dst] = 0
                else:
                    regs[insn.dst] = operate(name, left, right, site, wide)
            elif cls == 1:
                regs[insn.dst] = self.loads.load(state, insn, site)
            elif cls == 3 or cls == 2:
                self._store(state, insn, site, program)
            elif cls == 0:
                regs[insn.dst] = self.loads.immediate(insn, site)
            elif code in (0x85, 0x8D):
                if not self._call(state, insn, site, program):
                    return
                if state.program != site >> 20:
                    program = walker._programs[state.program]
                    shape = walker.shape(state.program)
                    insns = program.insns
            elif code == 0x95:
                if not self._exit(state, insn, site, program):
                    return
                program = walker._programs[state.program]
                shape = walker.shape(state.program)
                insns = program.insns
            elif code in (0x05, 0x06):
                assert insn.target is not None
                state.index = insn.target
            elif not self._branch(state, insn, site):
                return

    # Whether this was not seen; what was is not gone through again.
    def _new(self, state: State, shape: Shape) -> bool:
        if self.inside:
            state.forget_dead(shape.live[state.index])
        else:
            state.keep_numbers()
        key = (state.program, state.index, tuple((f.site, f.kind) for f in state.frames), state.prop)
        known = self.seen.setdefault(key, [])
        for old in known:
            if covers(old, state):
                return False
        if len(known) >= self.apart:
            times = self.joined[key] = self.joined.get(key, 0) + 1
            whole = join(self.symbols, known[-1], state, key, times > 4 or not self.inside)
            known[-1] = whole
            state.regs, state.stack, state.facts, state.frames = (
                list(whole.regs),
                dict(whole.stack),
                dict(whole.facts),
                whole.frames,
            )
            state.joined = True
        else:
            known.append(state.copy())
        return True

    def _store(self, state: State, insn: Insn, site: int, program: Program) -> None:
        base = state.regs[insn.dst]
        size = SIZE[insn.code & 0x18]
        value: Value | None = insn.imm & ((1 << 64) - 1) if insn.code & 7 == 2 else state.regs[insn.src]
        atomic = insn.code & 0xE0 == 0xC0
        place = place_of(base, insn.off) if isinstance(base, Sym) else None
        if atomic:
            if place is not None:
                self.trace.atomics.add(place)
            if self.tracks_task and insn.imm & 0xF0 in _FLAGGING and place is not None:
                self._flag(state, place)
            if insn.imm & 1:
                fetched = self.symbols.make("unk", site)
                state.regs[0 if insn.imm == 0xF1 else insn.src] = fetched
                state.facts.pop(fetched, None)
            if place is not None:
                state.stack.pop(place, None)
            return
        if place is None or not isinstance(base, Sym):
            return
        if base.kind == "fp":
            for at in range(place[1] + 1, place[1] + size):
                state.stack.pop((place[0], at), None)
            if value is None:
                state.stack.pop(place, None)
            else:
                if isinstance(value, int):
                    value &= (1 << 8 * size) - 1
                state.stack[place] = value, size
            return
        self._event(state, "store", insn.core.name if insn.core else "", insn, site, program, (base, value), None)
        state.facts = {sym: known for sym, known in state.facts.items() if not _reads(sym, base, insn.off)}
        if value is None or (isinstance(value, Sym) and value.kind == "op"):
            state.stack.pop(place, None)
        else:
            state.stack[place] = value, size
        if self.tracks_task and isinstance(value, int):
            self._flag(state, place)
        if self.tracks_task and not state.prop.handed and _leads_to_task(value, size):
            state.prop = state.prop._replace(handed=True)

    # A note for others in memory of all: perhaps "this one is yours".
    def _flag(self, state: State, place: tuple[object, int]) -> None:
        if isinstance(place[0], str) and place not in state.prop.flagged:
            state.prop = state.prop._replace(flagged=(*state.prop.flagged, place)[:4])

    def _branch(self, state: State, insn: Insn, site: int) -> bool:
        assert insn.target is not None
        regs = state.regs
        if insn.code & 0xF0 == 0xE0:
            found = Branch(True, True, None, None, None)
        else:
            wide = insn.code & 7 == 5
            left = regs[insn.dst]
            right: Value | None = regs[insn.src] if insn.code & 8 else insn.imm & ((1 << 64) - 1)
            if left is None or right is None:
                found = Branch(True, True, None, None, None)
            else:
                found = decide(self.symbols, insn.code & 0xF0, left, right, wide, state.facts, site)
                for side in (left, right):
                    if isinstance(side, Sym):
                        self.trace.compared.add(side)
        fall = state.index
        if found.taken and found.passed:
            other = state.copy()
            other.index = insn.target
            self._learn(other, found, True)
            other.path = Path(state.path, site, insn.target)
            self._learn(state, found, False)
            state.path = Path(state.path, site, fall)
            self.work.append(other)
            return True
        self._learn(state, found, found.taken)
        if found.taken:
            state.index = insn.target
        if found.soft is not None:
            state.path = Path(state.path, site, state.index)
        return True

    def _learn(self, state: State, found: Branch, taken: bool) -> None:
        refined = found.if_taken if taken else found.if_passed
        if refined is not None:
            sym, known = refined
            state.facts[sym] = known
            prop = state.prop
            if prop.pushed is sym:
                state.prop = prop._replace(pushed=None, handed=prop.handed or known[1] == known[0] == 0)
            elif prop.popped is sym and known[0] == known[1] == 0:
                state.prop = prop._replace(popped=None)
        if self.tracks_task and found.soft is not None and found.soft == taken and not state.prop.soft:
            state.prop = state.prop._replace(soft=True)

    def _exit(self, state: State, insn: Insn, site: int, program: Program) -> bool:
        if not state.frames:
            self._event(state, "exit", "", insn, site, program, (state.regs[0],), None)
            return False
        frame = state.frames[-1]
        depth = len(state.frames)
        state.stack = {place: value for place, value in state.stack.items() if place[0] != depth}
        state.frames = state.frames[:-1]
        state.program, state.index = frame.program, frame.back
        result = state.regs[0]
        state.regs[6:10] = frame.saved[:4]
        state.regs[10] = self.symbols.make("fp", depth - 1, 0)
        state.regs[1:6] = [None] * 5
        if frame.kind == "call":
            state.regs[0] = result
            return True
        # A callback in a loop: the loop is over, or goes on.
        if result != 1:
            again = state.copy()
            again.regs[1:6] = frame.saved[4:9]
            again.index = frame.back - 1
            key = ("again", frame.site, tuple((f.site, f.kind) for f in again.frames))
            known = self.seen.setdefault(key, [])
            if len(known) < 4 and not any(covers(old, again) for old in known):
                known.append(again.copy())
                self.trace.loops.add(frame.site)
                self.work.append(again)
        state.regs[0] = self.symbols.make("call", "loop", frame.site, (), -4095, 1 << 31)
        return True

    def _enter(self, state: State, name: str, site: int, kind: str, args: tuple[Value | None, ...]) -> bool:
        number = self.walker.number(name)
        if number is None or len(state.frames) >= _MAX_FRAMES:
            return False
        saved = tuple(state.regs[6:10]) + (tuple(state.regs[1:6]) if kind != "call" else ())
        state.frames = (*state.frames, Frame(state.program, state.index, saved, kind, site))
        state.regs[0:11] = [None, *args, *[None] * (5 - len(args)), None, None, None, None, None]
        state.regs[10] = self.symbols.make("fp", len(state.frames), 0)
        state.program, state.index = number, 0
        return True

    # Whether the way goes on.
    def _call(self, state: State, insn: Insn, site: int, program: Program) -> bool:
        call = insn.call
        regs = state.regs
        if call is None or call.kind == "indirect":
            self._clobber(state, site)
            return True
        if call.kind == "subprog":
            if not self.inside or not self._enter(state, call.name, site, "call", tuple(regs[1:6])):
                self._clobber(state, site)
            return True
        name = calls.base_name(call.name)
        if name in ("bpf_loop", "bpf_for_each_map_elem"):
            return self._looped(state, name, insn, site, program)
        if name in ("bpf_timer_set_callback", "bpf_wq_set_callback_impl", "bpf_wq_set_callback"):
            callback = regs[2]
            if isinstance(callback, Sym) and callback.kind == "addr" and callback.a == "subprog":
                self.walker.callbacks.setdefault(callback.b, self.op)
        self._known_call(state, name, insn, site, program)
        # What follows an error that ends the scheduler is of no weight.
        return name not in calls.ERRORS

    def _looped(self, state: State, name: str, insn: Insn, site: int, program: Program) -> bool:
        regs = state.regs
        callback = regs[2]
        if not (self.inside and isinstance(callback, Sym) and callback.kind == "addr" and callback.a == "subprog"):
            self._clobber(state, site)
            return True
        self._event(state, name, name, insn, site, program, tuple(regs[1:6]), None)
        if name == "bpf_loop":
            count = regs[1]
            low, high = 0, (1 << 23) - 1
            if isinstance(count, int):
                high = max(count - 1, 0)
            number = self.symbols.make("iter", site, 0, count, low, high)
            state.facts.pop(number, None)
            args: tuple[Value | None, ...] = (number, regs[3])
            never = not (isinstance(count, int) and count > 0)
        else:
            args = (regs[1], self.symbols.make("unk", site, 1), self.symbols.make("unk", site, 2), regs[3])
            never = True
        if never:
            skip = state.copy()
            self._clobber(skip, site)
            self.work.append(skip)
        if not self._enter(state, callback.b, site, "loop", args):
            self._clobber(state, site)
        return True

    def _clobber(self, state: State, site: int) -> None:
        state.regs[0] = self.symbols.make("unk", site)
        state.regs[1:6] = [None] * 5

    def _known_call(self, state: State, name: str, insn: Insn, site: int, program: Program) -> None:
        regs = state.regs
        role = calls.ROLE.get(name, name)
        given = tuple(regs[1 : 1 + calls.ARITY.get(name, 5)])
        args = self._arguments(state, name, role, given)
        make = self.symbols.make
        low, high = calls.RETURNS.get(name, BIG)
        result: Value = make("call", name, site, tuple(arg for arg in args if arg is not None), low, high)
        if role in _INSERTS:
            result = 1
        if isinstance(result, Sym):
            for sym in [sym for sym in state.facts if sym is result or (sym.kind == "op" and sym.b is result)]:
                del state.facts[sym]
        if name == "bpf_iter_num_new" and isinstance(regs[1], Sym):
            state.stack[("it", regs[1].b)] = (make("range", regs[2], regs[3]), 0)
            result = 0
        elif name == "bpf_iter_num_next" and isinstance(regs[1], Sym):
            result = self._next(state, site, regs[1])
        elif name not in calls.READERS:
            for number, arg in enumerate(given):
                if isinstance(arg, Sym) and arg.kind == "fp":
                    out = make("out", name, site, number, *((0, 1) if name == "scx_bpf_select_cpu_dfl" else BIG))
                    size = state.stack.get((arg.a, arg.b), (0, 4))[1]
                    state.stack[(arg.a, arg.b)] = out, size
                    state.facts.pop(out, None)
        self._event(state, role, name, insn, site, program, args, result)
        self._did(state, name, role, site, args, result)
        regs[0] = result
        regs[1:6] = [None] * 5

    # Arguments in one order, whatever the release.
    def _arguments(
        self, state: State, name: str, role: str, given: tuple[Value | None, ...]
    ) -> tuple[Value | None, ...]:
        if role == "insert":
            return (*given[:3], None, *given[3:4])
        if name.startswith("__scx_bpf_") and isinstance(given[-1], Sym) and given[-1].kind == "fp":
            frame, offset = given[-1].a, given[-1].b
            at = (0, 8, 16, 24) if role == "insert_vtime" else (0, 8, 16)
            read = tuple(state.stack.get((frame, offset + one), (None, 0))[0] for one in at)
            if role == "insert_vtime":
                return (given[0], *read)
            return (given[0], read[0], read[1], given[1], read[2])
        return given

    def _next(self, state: State, site: int, iterator: Sym) -> Value:
        make = self.symbols.make
        held = state.stack.get(("it", iterator.b))
        first, end = (held[0].a, held[0].b) if held and isinstance(held[0], Sym) else (None, None)
        fresh = held is not None and isinstance(held[0], Sym) and held[0].c is None
        pointer = make("iterp", site, first, end, 0)
        number = self.loads.counted(site, first, end)
        for sym in [sym for sym in state.facts if number in (sym, sym.b) or sym is pointer]:
            del state.facts[sym]
        if fresh:
            state.stack[("it", iterator.b)] = (make("range", first, end, 1), 0)
        if isinstance(first, int) and isinstance(end, int) and first < end and fresh:
            state.facts[pointer] = (1, BIG[1], True)
        self.trace.loops.add(site)
        return pointer

    def _did(
        self, state: State, name: str, role: str, site: int, args: tuple[Value | None, ...], result: Value
    ) -> None:
        prop = state.prop
        if not self.inside:
            return
        if role in _INSERTS:
            task = args[0]
            if not self.tracks_task or not (isinstance(task, Sym) and task.kind == "arg" and task.a != 0):
                state.prop = prop._replace(inserts=(*prop.inserts, site)[:2], kicked=False, popped=None)
        elif role == "consume" or role == "slots":
            if not self.tracks_task:
                state.prop = prop._replace(inserts=())
        elif role == "push":
            if self.tracks_task and isinstance(result, Sym):
                state.prop = prop._replace(pushed=result)
            else:
                state.prop = prop._replace(popped=None)
        elif name == "bpf_task_from_pid":
            pid = args[0]
            if self.op == "dispatch" and isinstance(pid, Sym) and pid.kind == "out" and pid.a == "bpf_map_pop_elem":
                state.prop = prop._replace(popped=result if isinstance(result, Sym) else None)
        elif name in _KEEPERS or "insert" in name or "push" in name or "enqueue" in name:
            state.prop = prop._replace(handed=prop.handed or self.tracks_task, popped=None)
        elif role == "kick" and self.tracks_task:
            state.prop = prop._replace(kicked=True)

    def _event(
        self,
        state: State,
        kind: str,
        name: str,
        insn: Insn,
        site: int,
        program: Program,
        args: tuple[Value | None, ...],
        result: Value | None,
    ) -> None:
        self.trace.sites.add(site)
        if not self.inside:
            return
        self.trace.events.append(
            Event(
                kind,
                name,
                self.op,
                self.trace.entry,
                site,
                program,
                insn,
                args,
                result,
                dict(state.facts),
                state.prop,
                state.path,
                state.frames,
                state.joined,
            )
        )


def _reads(sym: Sym, base: Sym, offset: int) -> bool:
    if sym.kind == "op":
        return any(_reads(one, base, offset) for one in (sym.b, sym.c) if isinstance(one, Sym))
    if sym.kind != "ld":
        return False
    if base.kind == "addr" and base.c:
        section, at = base.c
        return bool(sym.a == section and sym.b == at + offset)
    return sym.a is base and sym.b == offset


# A 32-bit copy of it is something else.
def _high_constant(value: Sym) -> bool:
    return value.kind == "op" and isinstance(value.c, int) and value.c > 0xFFFFFFFF


_IDS = frozenset(["task_struct.pid", "task_struct.tgid", "task_struct.scx.tid"])


# Whether who reads what was stored can find the task by it: a pointer, or the number of the task.
def _leads_to_task(value: Value | None, size: int) -> bool:
    if not isinstance(value, Sym):
        return False
    if value.kind == "fld":
        return str(value.b) in _IDS
    if size < 8:
        return False
    if value.kind == "arg":
        return bool(value.a == 0)
    if value.kind == "call":
        return bool(value.a in calls.NULLABLE) or str(value.a).endswith(("_get", "_alloc", "_acquire", "_impl"))
    return value.kind in ("ld", "phi")
