# SPDX-License-Identifier: Apache-2.0
"""drgn on a running guest of a distribution's kernel, asked through a session that stays open, and on its vmcore.

One VM for all tests; the last one panics it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kernloop.debug.helpers.tasks import ps
from kernloop.debug.session import client as sessions
from kernloop.debug.session.client import Session
from kernloop.debug.target import open_live
from kernloop.errors import HarnessError, SubjectError
from kernloop.kernel import refs, source
from kernloop.sched import compile as compiling
from kernloop.sched import programs
from kernloop.vm.client import VM
from kernloop.vm.request import VmRequest
from support import ROOT, alive, kernloop, python_env, until
from vms import pids_of, running, sh

pytestmark = pytest.mark.vm
KERNEL = "debian:7.3.4"
SECONDS = 60.0
# Design: how long a guest may stand still unasked.
PAUSE = 0.05
PUT = "printf {name} >/proc/$$/comm; exec taskset 2 sh -c 'printf {name} >/proc/$$/comm; while :; do :; done'"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def vm(state: Path) -> Iterator[VM]:
    with running(VmRequest(name="asked", kernel=KERNEL), state=state) as vm:
        yield vm


@pytest.fixture
def session(vm: VM) -> Session:
    return Session(vm.name, vm.run / sessions.FOLDER, run=vm.run)


def ask(session: Session, expression: str, **words: Any) -> Any:
    return session.evaluate(expression, **words)["value"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The first test: nothing of this guest was read before. CPU time, since others are at work beside.
def test_the_first_answer_takes_2_5_seconds_at_most_and_those_of_an_open_session_0_3(session: Session) -> None:
    assert ask(session, "task(1).comm") == {"type": "char [16]", "value": "init"}
    owner = session.state()["pid"]
    assert cpu_seconds(owner) <= 2.5
    before, mine = cpu_seconds(owner), time.process_time()
    questions = ("task(1).comm", "ps()", "runqueues()", "waits()", "modules()", "dmesg()")
    for question in questions:
        assert ask(session, question) is not None
    assert (cpu_seconds(owner) - before + time.process_time() - mine) / len(questions) <= 0.3
    assert session.state() == {"pid": owner, "questions": len(questions) + 2}


def test_the_command_line_asks_the_same_session_and_says_what_state_the_guest_was_in(
    session: Session, state: Path
) -> None:
    owner = session.state()
    done = kernloop("debug", "drgn", "asked", "-e", "ps()", "--limit", "2", XDG_STATE_HOME=str(state))
    assert done.status == 0 and done.out.decode().startswith("who=init[1]")
    assert "asked, " in done.text and "running, went on while it was read" in done.text
    done = kernloop("debug", "drgn", "asked", "-e", "1", "--hold", "--json", XDG_STATE_HOME=str(state))
    assert (done.json["held"], done.json["still"], done.json["value"]) == (True, True, 1)
    done = kernloop("debug", "why-hung", "asked", "--json", XDG_STATE_HOME=str(state))
    assert done.status == 0 and done.json["cpus"][1]["cpu"] == 1 and not done.json["still"]
    assert session.state()["pid"] == owner["pid"] and session.state()["questions"] == owner["questions"] + 5


def test_a_script_prints_as_it_goes_and_leaves_values_with_types_a_page_at_a_time(
    session: Session, state: Path, tmp_path: Path
) -> None:
    script = tmp_path / "look.py"
    script.write_text("print('begun')\nresult = [task(1).thread_info, *range(10)]\n")
    first = session.script(script, elements=4)
    assert first["output"] == "begun\n" and (first["count"], first["next"]) == (11, 4)
    assert first["value"][0]["type"] == "struct thread_info" and first["value"][0]["value"]["cpu"] in (0, 1)
    rest = session.script(script, elements=100, since=4)
    assert rest["value"] == list(range(3, 10)) and rest["next"] is None
    nested = ask(session, "[[1, 2, 3]], {'a': [4, 5, 6]}", elements=2)
    assert nested == [[[1, 2, "... 1 more"]], {"a": [4, 5, "... 1 more"]}]
    done = kernloop("debug", "drgn", "asked", str(script), "--limit", "1", XDG_STATE_HOME=str(state))
    assert done.out.decode().startswith("begun\n(struct thread_info){") and b"--since 1" in done.out
    script.write_text("import sys\nsys.exit('no')\n")
    assert kernloop("debug", "drgn", "asked", str(script), XDG_STATE_HOME=str(state)).status == 1


def test_a_question_that_does_not_end_is_ended_and_the_session_answers_the_next_one(session: Session) -> None:
    owner = session.state()["pid"]
    with pytest.raises(SubjectError, match=r"longer than 0\.5 s"):
        session.evaluate("[0 for _ in iter(int, 1)]", timeout=0.5)
    assert session.state()["pid"] == owner


def test_who_asks_and_is_killed_takes_its_question_along(session: Session, state: Path, tmp_path: Path) -> None:
    owner = session.state()["pid"]
    script, begun = tmp_path / "endless.py", tmp_path / "begun"
    script.write_text(f"open({str(begun)!r}, 'w').close()\nwhile True:\n    pass\n")
    argv = [sys.executable, "-m", "kernloop", "debug", "drgn", "asked", str(script)]
    with subprocess.Popen(argv, env=python_env(XDG_STATE_HOME=str(state)), stderr=subprocess.DEVNULL) as child:
        until(begun.exists, SECONDS, "the script runs")
        child.kill()
    assert session.state()["pid"] == owner


def test_a_killed_session_is_opened_anew_and_one_killed_meanwhile_says_so(session: Session) -> None:
    owner = session.state()["pid"]
    with pytest.raises(HarnessError, match="has ended"):
        session.evaluate("__import__('os').kill(__import__('os').getpid(), 9)")
    until(lambda: not alive(owner), SECONDS, "it is dead")
    assert ask(session, "task(1).pid")["value"] == 1
    assert session.state()["pid"] != owner


def standstills(vm: VM, times: int, do: Callable[[], object]) -> list[float]:
    """While `do` is done so often: for how long QEMU's vCPUs, which have work, wanted no CPU of the host's: > 50 ms.

    Time for which the host let others run instead is not counted: /proc/PID/schedstat tells of both. So it is of QEMU's
    main thread, which may wait for a CPU with the lock that the vCPUs want.
    """
    qemu = pids_of(vm.run)["qemu"]
    tasks = Path(f"/proc/{qemu}/task")
    job = vm.exec_background(["sh", "-c", "while :; do :; done"])

    def told(task: Path) -> list[int]:
        return [int(word) for word in (task / "schedstat").read_text().split()[:2]]

    # Under TCG one thread is all vCPUs: the one that works.
    before = {task: told(task)[0] for task in tasks.iterdir()}
    do()
    vcpu = max(before, key=lambda task: told(task)[0] - before[task])

    def ran_and_waited() -> tuple[int, int]:
        ran, waited = told(vcpu)
        return ran, waited + told(tasks / str(qemu))[1]

    found = []
    with ThreadPoolExecutor() as pool:
        doing = pool.submit(lambda: [do() for _ in range(times)])
        last, since = ran_and_waited(), time.monotonic()
        while not doing.done():
            # The clock is read before and after: this thread may have to wait for a CPU in between.
            now = time.monotonic()
            seen, after = ran_and_waited(), time.monotonic()
            if seen[0] != last[0]:
                stood = now - since - (sum(seen) - sum(last)) / 1e9
                if stood > PAUSE:
                    found.append(stood)
                last, since = seen, after
            time.sleep(0.001)
        doing.result()
    vm.kill(job)
    return found


# The guest's own clock would not tell: it stands still with the guest.
def test_who_reads_does_not_stop_the_guest_for_50_ms(vm: VM, session: Session) -> None:
    def cold() -> None:
        session.close()
        assert ask(session, "task(1).comm")

    def held() -> None:
        ask(session, "__import__('time').sleep(0.3)", hold=True)

    # A host that has no time for QEMU, or stands still itself, does not do so each time.
    assert any(len(standstills(vm, 4, held)) >= 3 for _ in range(3))
    assert any(standstills(vm, 3, cold) == [] for _ in range(3))
    assert any(standstills(vm, 10, lambda: ask(session, "why_hung().summary")) == [] for _ in range(3))


def test_what_is_done_after_a_question_that_held_the_guest_finds_it_running(vm: VM, session: Session) -> None:
    for _ in range(10):
        assert ask(session, "task(1).pid", hold=True)["value"] == 1
        vm.pause()
        vm.resume()


def test_modules_log_pages_and_objects_are_those_of_the_guest(vm: VM, session: Session) -> None:
    theirs = {
        line.split()[0]: int(line.split()[1]) for line in sh(vm, "cat /proc/modules").stdout.decode().splitlines()
    }
    mine = {one["name"]: one["size"] for one in ask(session, "modules()")}
    assert mine == theirs
    assert len(ask(session, "walk_list('modules', 'struct module', 'list')")) == len(theirs)
    sh(vm, "echo a line of ours > /dev/kmsg")
    # The kernel may say something of its own behind it.
    assert any(line.endswith("] a line of ours") for line in ask(session, "dmesg(count=5)"))
    # A file of ten pages, kept open by the program that made it.
    vm.exec_background(["sh", "-c", "dd if=/dev/zero of=/root/ten bs=4096 count=10; exec sleep 1000 </root/ten"])
    until(lambda: sh(vm, "pidof sleep").stdout, SECONDS, "it is open")
    pid, inode = (int(word) for word in sh(vm, "pidof sleep; stat -c %i /root/ten").stdout.split())
    pages = f"task({pid}).files.fdt.fd[0].f_mapping.i_pages"
    told = ask(session, f"[page(one) for _, one in walk_xarray({pages}, 'struct page')]")
    assert [one["owner"].split(" ", 1)[1] for one in told] == [f"inode {inode} page {number}" for number in range(10)]
    assert ask(session, f"slab(task({pid}).value_() + 8)")["cache"] == "task_struct"
    assert ask(session, f"page(task({pid}).value_())")["owner"].startswith("task_struct")
    assert ask(session, f"name(task({pid}).sched_class.value_())") == "fair_sched_class"
    differ = ask(session, "per_cpu_diff('runqueues')", elements=1000)
    assert differ["runqueues.cpu"] == [0, 1] and "runqueues.nr_cpus_allowed" not in differ
    # Nobody holds it, or somebody did this moment.
    assert ask(session, f"who_holds(task({pid}).mm.mmap_lock)")["kind"] == "rwsem"


def test_what_a_scheduler_put_on_its_dsq_is_what_it_says_itself(vm: VM, session: Session, tmp_path: Path) -> None:
    kit = source.kit(refs.resolve(KERNEL))
    vm.push(programs.loader(kit), "/root/scxload")
    built = compiling.compile_scheduler(ROOT / "tests/fixtures/sched_live/known.bpf.c", kit, tmp_path / "known.bpf.o")
    assert built.object is not None, built.text
    vm.push(built.object, "/root/")
    job = vm.exec_background(["sh", "-c", "printf x | /root/scxload /root/known.bpf.o; exec sleep 100000"])
    until(lambda: sh(vm, "cat /sys/kernel/sched_ext/state").stdout == b"enabled\n", SECONDS, "it is there")
    jobs = [vm.exec_background(["sh", "-c", PUT.format(name=f"put{number}")]) for number in range(4)]
    look = (
        "[[(one.pid, one.vtime) for one in dsq.tasks] for dsq in dsqs() if dsq.id == 7], "
        "[one.who.pid for one in scx_tasks() if one.where == 'dsq 0x7'], "
        "[one for one in bpf_variables('known.bss')['puts'] if isinstance(one, dict) and one['queued']]"
    )

    def equal() -> bool:
        # At one moment: the scheduler may be about to put one there, though.
        dsqs, placed, said = ask(session, look, hold=True)
        said = sorted(([one["pid"], one["vtime"]] for one in said), key=lambda one: one[1])
        return len(said) == 3 and dsqs == [said] and sorted(placed) == sorted(pid for pid, _ in said)

    until(equal, SECONDS, "both to be equal")
    names = {one["name"] for one in ask(session, "bpf_programs()", elements=100)}
    assert {"known_enqueue", "known_dispatch", "known_running"} <= names
    maps = {one["name"]: one for one in ask(session, "bpf_maps()", elements=100)}
    assert maps["known.bss"]["type"] == "array" and maps["known.bss"]["section"] == ".bss"
    assert len(ask(session, f"bpf_map({maps['known.bss']['id']})")) == 1
    # The queue's own tree, and the table of queues.
    walked = (
        "[[task.pid.value_() for task in walk_rbtree(queue.priq, 'struct task_struct', 'scx.dsq_priq')] for queue in "
        "walk_hash(prog['scx_root'].dsq_hash, 'struct scx_dispatch_q', 'hash_node') if queue.id == 7][0]"
    )
    both = f"{walked}, [one.pid for dsq in dsqs() if dsq.id == 7 for one in dsq.tasks]"

    def alike() -> bool:  # the guest may be held in the middle of an insertion
        tree, queue = ask(session, both, hold=True)
        return tree == queue and len(tree) >= 2

    until(alike, SECONDS, "tree and queue to be equal")
    for each in (*jobs, job):
        vm.kill(each)
    until(lambda: sh(vm, "cat /sys/kernel/sched_ext/state").stdout == b"disabled\n", SECONDS, "it is gone")


def test_a_panicked_guest_and_its_vmcores_of_both_formats_tell_the_same(
    vm: VM, session: Session, tmp_path: Path
) -> None:
    """The last one: nothing of this guest works any more."""
    vm.exec_background(["sh", "-c", "echo c >/proc/sysrq-trigger"])
    until(lambda: vm.info().state == "panicked", SECONDS, "the guest is dead")
    look = "[str(one.who) for one in ps()], [cpu_stack(cpu) for cpu in (0, 1)], dmesg(count=150)"

    # It is known to panic before it has said all, is in pstore, and is paused.
    def stopped() -> dict[str, Any] | None:
        told, again = session.evaluate(look, elements=200), session.evaluate(look, elements=200)
        over = any("panic+" in call for one in told["value"][1] for call in one["calls"])
        return told if over and told == again else None

    live = until(stopped, SECONDS, "it goes no further")
    assert live is not None and (live["state"], live["still"]) == ("panicked", True)
    kinds = set()
    for elf in (False, True):
        path = tmp_path / f"vmcore-{elf}"
        kinds.add(vm.dump(path, elf=elf)["format"])
        dead = sessions.attach(path)
        told = dead.evaluate(look, elements=200)
        assert (told["state"], told["still"]) == ("dump", True)
        for mine, theirs in zip(told["value"], live["value"], strict=True):
            assert mine == theirs
        assert dead.why_hung()["tasks"] == len(live["value"][0])
        owner = dead.state()["pid"]
        path.unlink()
        until(lambda: not alive(owner), SECONDS, "it ends with its file")  # noqa: B023
    assert kinds == {"kdump-raw-zlib", "elf"}
    tasks, stacks, lines = live["value"]
    assert "init[1]" in tasks and any("Kernel panic - not syncing: sysrq triggered crash" in line for line in lines)
    assert any("sysrq_handle_crash" in call for stack in stacks for call in stack["calls"])


@pytest.mark.skipif("KERNLOOP_LONG_TESTS" not in os.environ, reason="Python in a guest: set KERNLOOP_LONG_TESTS")
def test_a_guest_with_this_machines_programs_reads_its_own_kcore(state: Path) -> None:
    with running(VmRequest(name="itself", kernel=KERNEL, backend="vng"), state=state) as vm:
        argv = [
            sys.executable,
            "-m",
            "kernloop",
            "debug",
            "drgn",
            "/proc/kcore",
            "-e",
            "[one.name for one in ps()]",
            "--json",
        ]
        env = python_env(XDG_STATE_HOME="/tmp/state", XDG_CACHE_HOME="/tmp/cache")
        words = [f"{name}={env[name]}" for name in ("PYTHONPATH", "XDG_STATE_HOME", "XDG_CACHE_HOME")]
        done = vm.exec(["env", *words, *argv, "--limit", "1000"], timeout=400.0)
        told = json.loads(done.stdout)
        assert (told["state"], told["still"], told["types"]) == ("running", False, "btf")
        with open_live(vm) as prog:
            outside = {row.name for row in ps(prog) if not row.name.startswith("kworker")}
        assert outside <= set(told["value"])


def test_a_session_ends_with_its_vm(state: Path) -> None:
    with running(VmRequest(name="short", kernel=KERNEL), state=state) as vm:
        session = Session(vm.name, vm.run / sessions.FOLDER, run=vm.run)
        owner = session.state()["pid"]
        os.kill(owner, signal.SIGINT)  # a terminal's, for who started it
        assert session.state()["pid"] == owner
    until(lambda: not alive(owner), SECONDS, "it has ended")
    assert not (vm.run / sessions.FOLDER / "socket").exists()
    with pytest.raises(HarnessError):
        session.evaluate("1")
