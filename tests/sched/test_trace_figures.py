# SPDX-License-Identifier: Apache-2.0
"""Figures of a trace, against sequences whose answers are counted by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernloop.sched.trace.latency import Measured, Meter, Spread, Task, TaskFigures, dsq_name, spread, tasks
from kernloop.sched.trace.ringbuffer import LOST, Event

LOCAL, GLOBAL = 0x8000000000000002, 0x8000000000000001
RUNNABLE, ASLEEP, PREEMPTED = 0, 1, 0x100


def switch(ts: int, cpu: int, prev: int, state: int, next_: int) -> Event:
    return Event(ts, cpu, "sched_switch", prev, (f"t{prev}", prev, 120, state, f"t{next_}", next_, 120))


def wake(ts: int, pid: int, kind: str = "sched_waking") -> Event:
    return Event(ts, 0, kind, 0, (f"t{pid}", pid, 120, 0))


def insert(ts: int, pid: int, dsq: int, cpu: int = 0) -> Event:
    return Event(ts, cpu, "dsq_insert", 0, (pid, dsq, cpu, 0))


def leave(ts: int, pid: int, dsq: int, cpu: int = 0) -> Event:
    return Event(ts, cpu, "dsq_leave", 0, (pid, dsq, cpu))


def measured(*events: Event, end: int = 1000, there: tuple[Task, ...] = ()) -> Measured:
    meter = Meter(0, there)
    for event in events:
        meter.feed(event)
    return meter.finish(end)


def of(found: Measured, pid: int) -> TaskFigures:
    return next(task for task in found.tasks if task.pid == pid)


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    # The 50th of 1..100 is 50, the 99th 99; of ten values the 90th percentile is the ninth.
    assert spread(range(1, 101)) == Spread(100, 50, 90, 99, 100)
    assert spread([7, 1, 9, 3, 5, 2, 10, 4, 8, 6]) == Spread(10, 5, 9, 10, 10)
    assert spread([42]) == Spread(1, 42, 42, 42, 42)
    assert spread([]) == Spread()


def test_a_task_that_wakes_runs_is_preempted_and_sleeps() -> None:
    found = measured(
        switch(50, 0, 9, ASLEEP, 0),
        wake(100, 1),
        wake(101, 1, "sched_wakeup"),
        switch(130, 0, 0, RUNNABLE, 1),  # woken at 100: 30
        switch(200, 0, 1, PREEMPTED, 2),  # ran 70
        switch(260, 0, 2, ASLEEP, 1),  # waited 60 more, of which no wake-up is the cause
        switch(300, 0, 1, ASLEEP, 0),  # ran 40
    )
    task = of(found, 1)
    assert task.wakeup == Spread(1, 30, 30, 30, 30)
    assert task.delay == Spread(2, 30, 60, 60, 60)
    assert task.slice == Spread(2, 40, 70, 70, 70)
    assert (task.ran, task.waiting, task.migrations) == (110, 0, 0)
    assert found.tasks[0].pid == 2, "the task that waited longest comes first: 2 could run all the time before 200"


def test_a_task_that_starves_has_its_wait_though_it_never_ran() -> None:
    found = measured(switch(10, 0, 0, RUNNABLE, 1), wake(100, 2))
    assert of(found, 2).waiting == 900
    assert of(found, 2).delay.max == 900
    assert of(found, 2).wakeup.count == 0


def test_a_task_that_starves_from_before_the_beginning_is_known_from_the_list_of_tasks() -> None:
    starving, idle = Task(7, 7, "starved", "R", 0), Task(8, 8, "sleeper", "S", 0)
    found = measured(switch(10, 0, 1, PREEMPTED, 2), there=(starving, idle))
    assert of(found, 7).waiting == 1000
    assert of(found, 7).comm == "starved"
    assert not any(task.pid == 8 for task in found.tasks)


def test_a_task_that_never_left_its_cpu_is_not_said_to_starve() -> None:
    # On CPU 1 nothing happened: the task that is runnable there is the one that runs.
    found = measured(switch(10, 0, 0, RUNNABLE, 2), there=(Task(7, 7, "hog", "R", 1),))
    assert not any(task.pid == 7 for task in found.tasks)


def test_a_wake_up_that_overtakes_the_sleep_counts_from_its_own_time() -> None:
    # ttwu() waits until the task has left its CPU: sched_waking comes before the switch to sleep.
    found = measured(
        switch(10, 0, 0, RUNNABLE, 1), wake(50, 1), switch(60, 0, 1, ASLEEP, 2), switch(90, 0, 2, ASLEEP, 1)
    )
    assert of(found, 1).wakeup.max == 40
    assert of(found, 1).delay.max == 30


def test_a_task_woken_before_it_slept_has_waited_for_nothing() -> None:
    found = measured(
        switch(10, 0, 0, RUNNABLE, 1), wake(50, 1), wake(51, 1, "sched_wakeup"), switch(60, 0, 1, ASLEEP, 0)
    )
    assert of(found, 1).wakeup.count == 0
    assert of(found, 1).waiting == 0


def test_nothing_is_concluded_across_lost_events() -> None:
    found = measured(wake(100, 1), Event(200, 0, LOST, 0, (5,)), switch(900, 0, 0, RUNNABLE, 1))
    assert of(found, 1).delay.count == 0
    assert (found.lost, found.gaps) == (5, 1)


def test_queues_tell_how_long_tasks_lay_in_them() -> None:
    found = measured(
        insert(10, 1, 0x5),
        insert(20, 2, 0x5),
        leave(40, 1, 0x5),
        insert(41, 1, LOCAL, cpu=1),
        leave(50, 1, LOCAL, cpu=1),
        insert(60, 3, GLOBAL),
    )
    queues = {one.name: one for one in found.dsqs}
    assert set(queues) == {"0x5", "local 1", "global"}
    assert (queues["0x5"].inserts, queues["0x5"].depth, queues["0x5"].stay) == (2, 2, Spread(1, 30, 30, 30, 30))
    assert queues["local 1"].stay.max == 9
    assert dsq_name(0x123, 0) == "0x123"


def test_migrations_and_busy_cpus_are_counted() -> None:
    found = measured(
        switch(100, 0, 0, RUNNABLE, 1),
        switch(400, 0, 1, ASLEEP, 0),
        Event(450, 0, "sched_migrate_task", 0, (1, 0, 1)),
        switch(500, 1, 0, RUNNABLE, 1),
    )
    assert of(found, 1).migrations == 1
    assert [(cpu.cpu, cpu.switches, cpu.busy) for cpu in found.cpus] == [(0, 2, 300), (1, 1, 500)]


def test_tasks_are_read_from_proc_whatever_they_are_called() -> None:
    rest = " ".join(map(str, range(1, 50)))
    text = f"12 13 (a) b (c\n) R {rest}\n1 1 (init) S {rest}\n"
    assert tasks(text.replace("\n)", ")")) == [Task(13, 12, "a) b (c", "R", 35), Task(1, 1, "init", "S", 35)]


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("wsnpld"), st.integers(0, 1)), max_size=60))
def test_no_order_of_events_makes_a_figure_negative_or_longer_than_the_recording(
    steps: list[tuple[int, str, int]],
) -> None:
    events = []
    for at, (pid, what, cpu) in enumerate(steps, start=1):
        ts = at * 10
        events.append(
            {
                "w": wake(ts, pid),
                "s": switch(ts, cpu, pid, ASLEEP, (pid + 1) % 4),
                "n": wake(ts, pid, "sched_wakeup"),
                "p": switch(ts, cpu, pid, PREEMPTED, 0),
                "l": Event(ts, cpu, LOST, 0, (1,)),
                "d": insert(ts, pid, LOCAL, cpu) if pid % 2 else leave(ts, pid, LOCAL, cpu),
            }[what]
        )
    found = measured(*events)
    for task in found.tasks:
        for figures in (task.wakeup, task.delay, task.slice):
            assert 0 <= figures.p50 <= figures.p90 <= figures.p99 <= figures.max <= 1000
        assert task.ran >= 0
    assert all(queue.depth >= 0 and queue.stay.max <= 1000 for queue in found.dsqs)
