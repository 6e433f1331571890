# SPDX-License-Identifier: Apache-2.0
"""A crash for people: the page and the mail say what is known, leave out what is not, and no console breaks out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kernloop import runs
from kernloop.cli.main import app
from kernloop.present import html, markdown, repeat
from kernloop.present.account import Account
from kernloop.present.logs import Log, account_of, found_in, read
from kernloop.verdict import Verdict
from pages import Page
from verdicts import FIXTURES, ran

PANIC = FIXTURES / "console/sysrq-crash-7.3.4.log"
HOSTILE = (
    b"[    1.0] Linux version 7.3.4 (<script>alert(1)</script>) `` @everyone ``` {{ 7 * 7 }}\n"
    b"[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000008\n"
    b"[    2.0] #PF: supervisor read access in kernel mode </pre><script>alert(2)</script>\n"
    b"[    2.0] CPU: 0 UID: 0 PID: 7 Comm: <b>`x` Not tainted 7.3.4 #1 PREEMPT(lazy)\n"
    b"[    2.0] Hardware name: ``` </code> [click](http://evil.example/)\n"
    b"[    2.0] RIP: 0010:kl_get+0x10/0x20 [kl]\n"
    b"[    2.0] Call Trace:\n[    2.0]  <TASK>\n[    2.0]  kl_ioctl+0x10/0x20 [kl]\n"
    b"[    2.0]  do_syscall_64+0x10/0x20\n[    2.0] ````\n[    2.0] ````` \x1b[31mred\n[    2.0]  </TASK>\n"
    b"[    2.0] ---[ end trace 0000000000000000 ]---\n"
)
DEADLOCK = """WARNING: possible circular locking dependency detected
7.3.4 #1 Not tainted
------------------------------------------------------
kl/7 is trying to acquire lock:
ffffffff82000000 (&b){+.+.}-{4:4}, at: kl_second+0x10/0x20

but task is already holding lock:
ffffffff82000040 (&a){+.+.}-{4:4}, at: kl_first+0x10/0x20

which lock already depends on the new lock.

the existing dependency chain (in reverse order) is:

-> #1 (&a){+.+.}-{4:4}:
       kl_other+0x10/0x20

-> #0 (&b){+.+.}-{4:4}:
       kl_second+0x10/0x20

Chain exists of:
  &a --> &b

stack backtrace:
CPU: 0 UID: 0 PID: 7 Comm: kl Not tainted 7.3.4 #1 PREEMPT(lazy)
Call Trace:
 <TASK>
 dump_stack_lvl+0x10/0x20
 kl_second+0x10/0x20
 do_syscall_64+0x10/0x20
 </TASK>"""


def first(data: bytes, run: Path | None = None) -> Account:
    return first_of(Log("console.log", data, run))


def first_of(log: Log) -> Account:
    crashes = found_in(log)
    return account_of(crashes[0], log, crashes)


def panicked(command: list[str]) -> Path:
    """A run that ended in the recorded panic."""
    log = PANIC.read_bytes()
    at = log[: log.index(b"Kernel panic")].count(b"\n") + 1
    run: Path = ran(Verdict.PANIC, "kernel panic: sysrq", console=log, lines=(at, at + 3)).path
    spec = runs.read_json(run / "spec.json")
    runs.write_json(run / "spec.json", {**spec, "kernel": "tree:/src/linux", "command": command})
    (run / "timeline.jsonl").write_text(
        json.dumps({"t": 0, "event": "start", "argv": ["run", "--json", "--cpus", "4", "--junit", "x.xml", "--",
                    *command], "cwd": "/home/me"}) + "\n"
    )  # fmt: skip
    return run


def sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.M)


def test_a_run_is_told_with_its_command_its_kernel_and_its_trace() -> None:
    found = first_of(read(panicked(["sh", "-c", "echo c"]).name))
    text = markdown.render(found)
    assert text.startswith("# `kernel panic: sysrq triggered crash`\n")
    assert "```sh\nkernloop run --cpus 4 -- sh -c 'echo c'\n```\n\nin `/home/me`" in text
    assert "- build-id: `ab12`" in text
    assert "- source: `debian:7.3.4`" in text
    assert sections(text)[:3] == ["How to repeat", "Kernel", "Trace"]
    assert "sysrq_handle_crash" in text


def test_of_a_file_what_is_not_known_is_left_out() -> None:
    text = markdown.render(first(b"[    2.0] kernel BUG at lib/kl.c:7!\n"))
    assert sections(text) == ["Console, lines 1 to 1"]
    assert "None" not in text
    page = Page(
        html.render_log(first(b"[    2.0] kernel BUG at lib/kl.c:7!\n"), b"[    2.0] kernel BUG at lib/kl.c:7!\n")
    )
    assert not {"repeat", "kernel", "config"} & set(page.ids)


def test_the_log_itself_tells_release_banner_command_line_and_hardware() -> None:
    log = (
        b"[    0.0] Linux version 7.3.4 (me@here) (gcc 14) #1 SMP\n[    0.0] Command line: quiet\n"
        b"[    0.1] Kernel command line: console=ttyS0 quiet\n" + PANIC.read_bytes().partition(b"\n")[2]
    )
    told = dict(first(log).kernel)
    assert told["banner"].startswith("Linux version 7.3.4 (me@here)")
    assert told["command line"] == "quiet"
    assert told["release"].startswith("7.3.4")
    assert told["hardware"].startswith("QEMU Standard PC")


def test_no_console_breaks_out_of_the_mail() -> None:
    found = first(HOSTILE)
    text = markdown.render(found)
    inside, mark = False, ""
    for line in text.splitlines():
        fence = re.match(r"(`{3,})(\w*)$", line)
        if fence and not inside:
            inside, mark = True, fence[1]
        elif inside and line == mark:
            inside = False
        elif not inside:
            bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
            assert not re.search(r"[<>@\[\]]|script|evil", bare), line
    assert not inside
    assert "\x1b" not in text


def test_no_console_breaks_out_of_the_page() -> None:
    raw = html.render_log(first(HOSTILE), HOSTILE)
    page = Page(raw)
    assert "<script" not in raw
    assert "<b>" not in raw
    assert "\x1b" not in raw
    assert not page.tags & {"script", "img", "link", "iframe", "object", "form", "base"}
    assert [link for link in page.links if not link.startswith("#")] == []
    assert all(link[1:] in page.ids for link in page.links)
    assert "{{ 7 * 7 }}" in page.text
    assert any(line.endswith("BUG: kernel NULL pointer dereference, address: 0000000000000008") for line in page.marked)


def test_the_page_of_a_run_that_crashed_says_how_to_read_it_and_how_to_repeat_it() -> None:
    run = panicked(["sh", "-c", "echo c"])
    page = Page(html.write(run).read_text(encoding="utf-8"))
    assert {"crash", "trace", "reading", "repeat"} <= set(page.ids)
    assert "kernloop run --cpus 4 -- sh -c 'echo c'" in page.text
    assert "sysrq_handle_crash" in page.text
    assert f"kernloop report {run.name} --all" in page.text


def test_a_vm_is_repeated_by_its_start_and_what_was_done_in_it() -> None:
    spec = {"name": "a", "kernel": "debian:7.3", "memory": 1024, "append": ["oops=panic"], "backend": "micro",
            "topology": {"cpus": 4, "sockets": 2, "nodes": [{"cpus": [0, 3], "memory": 1024}], "distances": []},
            "seed": None, "tag": ""}  # fmt: skip
    with runs.create("vm", "kernloop.vm/1", {"subject": "a", **spec}) as run:
        run.note("exec", job=1, argv=["sh", "-c", "echo c"])
        run.note("sysrq", keys="w")
        run.note("dump", path="x")
    assert repeat.of_run(run.path).commands == (
        "kernloop vm start --name a --kernel debian:7.3 --cpus 4,sockets=2 --memory 1024M --numa 0-3:1024M "
        "--append oops=panic",
        "kernloop vm exec a -- sh -c 'echo c'",
        "kernloop vm sysrq a w",
    )


def test_a_schedulers_end_is_told_with_its_cause_its_cure_and_where_the_task_sat() -> None:
    text = markdown.render(first_of(read(str(FIXTURES / "scx/qmap-stall-7.3.4.log"))))
    said = text.partition("## What the report says")[2]
    for word in (
        "- exit: `SCX_EXIT_ERROR_STALL (1026)`",
        "- message: `init[130] failed to run for 6.844s`",
        "- cure: `",
    ):
        assert word in said
    assert "- placed: `init[130] was given to ops.enqueue and is in no DSQ" in said


def test_a_cycle_of_locks_is_one_line_and_each_end_names_its_function() -> None:
    text = markdown.render(first("\n".join(f"[    1.0] {line}" for line in DEADLOCK.split("\n")).encode() + b"\n"))
    assert "- order of the locks: `&a -> &b`" in text
    assert "- wanted: `&b, kl_second(), kl/7`" in text
    assert "- held meanwhile: `&a, kl_first(), kl/7`" in text


def test_a_report_that_follows_from_another_says_so() -> None:
    log = HOSTILE + HOSTILE.replace(b"[    2.0]", b"[    9.0]")
    assert "(line 16, follows from line 2: the same once more)" in markdown.render(first(log))


@pytest.mark.parametrize("name", ["sysrq-crash-7.3.4.log", "no-root-6.17.13.log", "warn-7.3.4.log"])
def test_the_verb_prints_the_mail_and_writes_the_page(name: str, tmp_path: Path) -> None:
    log, file = FIXTURES / "console" / name, tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(log), "--markdown", "--html", str(file)])
    assert done.exit_code == 1
    assert done.stdout.startswith("# `")
    assert "reading" in Page(file.read_text(encoding="utf-8")).ids
    again = CliRunner().invoke(app, ["report", str(log), "--html", str(tmp_path / "no" / "page.html")])
    assert again.exit_code == 125
    assert "cannot write" in again.stderr


def test_a_kind_is_explained_without_a_log() -> None:
    done = CliRunner().invoke(app, ["report", "--explain", "hung-task"])
    assert done.exit_code == 0
    assert "likely owned by task" in done.stdout
    value = json.loads(CliRunner().invoke(app, ["report", "--explain", "kasan-read", "--json"]).stdout)
    assert value["schema"] == "kernloop.advice/1"
    assert {"why", "command"} <= value["run"][0].keys()
    wrong = CliRunner().invoke(app, ["report", "--explain", "hang-task"])
    assert wrong.exit_code == 2
    assert "hung-task" in wrong.stderr
