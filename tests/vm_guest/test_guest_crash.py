# SPDX-License-Identifier: Apache-2.0
"""Guests that crash, hang or go away: the verdict says which, with the evidence."""

from __future__ import annotations

import pytest

from kernloop import runs
from kernloop.verdict import Verdict, guest_exit_code
from kernloop.vm import run as library
from kernloop.vm import session
from support import kernloop, the_run, verdict_of

pytestmark = pytest.mark.vm


def console() -> str:
    path = the_run()
    assert path is not None
    return (path / "console.log").read_text(errors="replace")


# What a command writes in the moment before may still be in the pipe to the agent: hence the second.
def test_a_panic_exits_120_and_names_the_function_with_the_consoles_excerpt() -> None:
    done = kernloop("run", "--", "sh", "-c", "echo before; sleep 1; echo c > /proc/sysrq-trigger; echo after")
    assert (done.status, done.out) == (120, b"before\n")
    path = the_run()
    assert path is not None
    verdict = verdict_of(path)
    assert (verdict["verdict"], verdict["function"], verdict["exit_code"]) == ("panic", "sysrq_handle_crash", 120)
    assert "sysrq triggered crash" in done.text
    assert "kind kernel-panic, function sysrq_handle_crash" in done.text
    assert verdict["kind"] == "kernel-panic"
    assert verdict["next"].startswith(f"kernloop report {path.name}; again with --dump")
    told = kernloop("report", path.name, "--markdown")
    mail = told.out.decode()
    assert told.status == 1
    assert "```sh\nkernloop run -- sh -c 'echo before; sleep 1; echo c > /proc/sysrq-trigger; echo after'\n```" in mail
    assert f"- build-id: `{verdict['kernel']['guest_build_id']}`" in mail
    assert "CONFIG_SMP=y" in mail
    page = (path / "report.html").read_text()
    assert 'id="crash"' in page
    assert 'id="repeat"' in page
    first, last = verdict["evidence"][0]["lines"]
    excerpt = console().splitlines()[first - 1 : last]
    assert any("Kernel panic - not syncing" in line for line in excerpt)
    assert any("sysrq_handle_crash" in line for line in excerpt)


def test_a_panic_in_the_json_carries_what_the_command_said_before_it() -> None:
    done = kernloop("run", "--json", "--", "sh", "-c", "echo before; sleep 1; echo c > /proc/sysrq-trigger")
    assert done.status == 120
    assert (done.json["verdict"], done.json["stdout"]["text"]) == ("panic", "before\n")


def test_a_deadline_exits_124_and_keeps_backtraces_of_a_living_kernel() -> None:
    done = kernloop("run", "--timeout", "3", "--", "sleep", "60")
    assert done.status == 124
    assert "hang" in done.text
    assert "alive" in done.text
    log = console()
    assert "sysrq: Show" in log
    assert "task:sleep" in log
    path = the_run()
    assert path is not None
    assert "RIP=" in (path / "registers.txt").read_text()


def test_a_guest_that_never_gets_to_its_init_is_a_boot_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    # It takes 3 s of CPU time to where it says so.
    monkeypatch.setattr(session, "BOOT_SECONDS", 40.0)
    request = library.Request(("true",), append=("rdinit=/bin/cat",))
    with runs.create("run", library.SCHEMA, {"subject": "true"}) as record:
        outcome = library.execute(
            request, record, on_stdout=lambda data: None, on_stderr=lambda data: None, say=lambda text: None
        )
    assert outcome.verdict is Verdict.BOOT_HANG
    assert guest_exit_code(outcome.verdict, outcome.exit_status) == 124
    assert "Run /bin/cat as init process" in console()
    assert "sysrq: Show" in console()


def test_an_init_that_is_not_there_is_a_panic_and_not_a_boot_hang() -> None:
    done = kernloop("run", "--json", "--append", "rdinit=/nothing", "--append", "init=/nothing", "--", "true")
    assert (done.status, done.json["verdict"]) == (120, "panic")
    assert "/nothing" in console()


@pytest.mark.parametrize(("command", "word"), [("poweroff -f", "powered itself off"), ("reboot -f", "was reset")])
def test_a_guest_that_goes_in_the_middle_of_the_command_is_lost(command: str, word: str) -> None:
    done = kernloop("run", "--", "sh", "-c", f"echo started; {command}; sleep 30")
    assert (done.status, done.out) == (125, b"started\n")
    assert "lost" in done.text
    assert word in done.text
    assert "next:" in done.text


def test_memory_too_small_for_the_command_is_the_commands_failure_and_not_ours() -> None:
    fill = "dd if=/dev/zero of=/tmp/x bs=1M count=2000 || exit 9"
    done = kernloop("run", "--json", "--memory", "256M", "--", "sh", "-c", fill)
    assert (done.status, done.json["verdict"]) == (9, "command-failed")
    assert "No space left on device" in done.json["stderr"]["text"]
