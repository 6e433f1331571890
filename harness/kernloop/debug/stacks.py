# SPDX-License-Identifier: Apache-2.0
"""The stack of every task: of one that sleeps by what it saved, of one that runs by its CPU's registers."""

from __future__ import annotations

from drgn import Object, Program

from kernloop.debug.code import code_of
from kernloop.debug.orc import Orc, Stack
from kernloop.debug.registers import Registers
from kernloop.debug.target import about
from kernloop.debug.walk import per_cpu_variable

__all__ = ["Stacks", "cpu_of", "on_cpu"]


class Stacks:
    """Of one Program. What a running guest's CPUs do changes meanwhile; a stack says itself when it is not whole."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self.orc = Orc(prog, code_of(prog))
        self.cpus = {one.cpu: one for one in about(prog).cpus}

    def current(self, cpu: int) -> Object:
        """The task that a CPU runs, as a pointer."""
        return per_cpu_variable(self._prog["runqueues"], cpu).curr

    def of_cpu(self, cpu: int) -> Stack:
        registers = self.cpus.get(cpu)
        return self.orc.running(registers) if registers else Stack((), False, "its registers are not known")

    def of(self, task: Object) -> Stack:
        """`task` is a pointer."""
        if not self.orc.known:
            return Stack((), False, "the kernel has no ORC (CONFIG_UNWINDER_ORC)")
        return self.of_cpu(cpu_of(task)) if on_cpu(task) else self.orc.sleeping(task)

    def registers(self, task: Object) -> Registers | None:
        return self.cpus.get(cpu_of(task)) if on_cpu(task) else None


def on_cpu(task: Object) -> bool:
    """Whether it runs this moment (kernel/sched/core.c)."""
    return bool(task.on_cpu.value_())


def cpu_of(task: Object) -> int:
    """Where it runs, or ran last: in struct thread_info (include/linux/sched.h)."""
    return int(task.thread_info.cpu.value_())
