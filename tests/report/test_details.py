# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom, as reports tell it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernloop.report.details import Lock, Stall, Work, details
from kernloop.report.engine import parse_console

DEADLOCK = """\
WARNING: possible circular locking dependency detected
6.12.0 #1 Not tainted
kl/42 is trying to acquire lock:
ffff888000000000 (&a->lock){+.+.}-{3:3}, at: kl_guilty+0x12/0x40
but task is already holding lock:
ffff888000000008 (&b->lock){+.+.}-{3:3}, at: kl_caller+0x1/0x20
the existing dependency chain (in reverse order) is:
-> #1 (&b->lock){+.+.}-{3:3}:
       __mutex_lock+0x1/0x2
       kl_other_path+0x1/0x2
-> #0 (&a->lock){+.+.}-{3:3}:
       __lock_acquire+0x1/0x2
       kl_guilty+0x12/0x40
Chain exists of:
  &a->lock --> &c->lock --> &b->lock
2 locks held by kl/42:
 #0: ffff888000000008 (&b->lock){+.+.}-{3:3}, at: kl_caller+0x1/0x20
 #1: ffff888000000010 (rcu_read_lock){....}-{1:3}, at: kl_reader+0x1/0x20
stack backtrace:
Call Trace:
 kl_guilty+0x12/0x40
"""

HUNG = """\
INFO: task kl:42 blocked for more than 120 seconds.
      Not tainted 6.16.0 #1
INFO: task kl:42 is blocked on a mutex likely owned by task other:43.
Call Trace:
 __schedule+0x1/0x2
 kl_guilty+0x12/0x40
Showing all locks held in the system:
1 lock held by other/43:
 #0: ffffffff00000000 (&a->lock){+.+.}-{4:4}, at: kl_holder+0x1/0x2
"""

STALL = """\
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
rcu: \t1-...!: (0 ticks this GP) idle=1234/1/0x4000000000000000 softirq=7/8 fqs=0
rcu: \tTasks blocked on level-0 rcu_node (CPUs 0-1): P42/1:b..l P43/2:b..l
rcu: \t(detected by 0, t=2102 jiffies, g=1001, q=12 ncpus=2)
rcu: rcu_preempt kthread starved for 2100 jiffies! g1001 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402 ->cpu=1
"""

WORK = """\
BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!
Showing busy workqueues and worker pools:
workqueue events: flags=0x0
  pwq 2: cpus=1 node=0 flags=0x0 nice=0 active=2/256 refcnt=3
    in-flight: 42:kl_work [kl]
    pending: kl_other_work, vmstat_shepherd
"""


def test_a_deadlock_names_both_ends_and_the_cycle() -> None:
    found = details("deadlock", DEADLOCK.splitlines())
    assert found is not None
    assert found.wanted == (Lock("&a->lock", "kl_guilty", "kl", 42),)
    assert found.held == (Lock("&b->lock", "kl_caller", "kl", 42),)
    assert found.cycle == ("&a->lock", "&c->lock", "&b->lock")
    assert found.places == (Lock("&b->lock", "kl_other_path"), Lock("&a->lock", "kl_guilty"))
    assert [lock.function for lock in found.all_held] == ["kl_caller", "kl_reader"]


def test_a_hung_task_says_who_has_what_it_waits_for() -> None:
    found = details("hung-task", HUNG.splitlines())
    assert found is not None
    assert found.waiting == Lock("", None, "kl", 42)
    assert found.owner == Lock("mutex", None, "other", 43)
    assert found.all_held == (Lock("&a->lock", "kl_holder", "other", 43),)


def test_a_stall_names_the_cpus_and_tasks_that_rcu_waits_for() -> None:
    found = details("rcu-stall", STALL.splitlines())
    assert found is not None
    assert found.stall == Stall((1,), (42, 43), 2102, 0, 2100)


def test_a_stuck_workqueue_names_what_runs_and_what_waits() -> None:
    found = details("workqueue-lockup", WORK.splitlines())
    assert found is not None
    assert (found.pool, found.stuck_seconds) == ("cpus=1 node=0 flags=0x0 nice=0", 31)
    assert found.works == (
        Work("events", "kl_work", True, 42),
        Work("events", "kl_other_work", False),
        Work("events", "vmstat_shepherd", False),
    )


def test_a_crash_carries_its_details() -> None:
    for text in (DEADLOCK, HUNG, STALL, WORK):
        first = parse_console(f"[    7.1] {line}" for line in text.splitlines())[0]
        assert first.details is not None
        assert first.details == details(first.kind, text.splitlines())


LINES = st.sampled_from("\n".join((DEADLOCK, HUNG, STALL, WORK)).splitlines())


@given(
    st.sampled_from(["deadlock", "hung-task", "rcu-stall", "workqueue-lockup", "warning"]),
    st.lists(st.one_of(LINES, st.text(max_size=40)), max_size=30),
)
def test_no_lines_raise(kind: str, lines: list[str]) -> None:
    details(kind, lines)
