# SPDX-License-Identifier: Apache-2.0
"""The port of kdb, where the kernel's own words come in pieces: its prompt, its pager, GDB's stub, nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kernloop.errors import HarnessError, UsageError
from kernloop.vm import kdb

# As a 7.3.4 has sent them, with the bytes that made it do so.
AT_THE_PROMPT = {b"q\r": b"q\r\nUnknown kdb command: 'q'\r\n[1]kdb> "}
IN_THE_PAGER = {b"q\r": b"\r\n ? handle_mm_fault+0xbb/0x15a\r\n </TASK>\r\n\r\n[1]kdb> "}
IN_THE_STUB = {
    b"+$3#33": b"+\r\nEntering kdb (current=0xffff888002758000, pid 42) on processor 1 Oops: (null)\r\nmore> ",
    b"q": b"\r\n\r\n[1]kdb> ",
}
ANSWERS = {
    b"set LINES=100000\r": b"set LINES=100000\r\n[1]kdb> ",
    b"ps\r": b"\r\n[1]kdb> ps\r\n1 idle process\r\n\r\n[1]kdb> ",
}


def talk(folder: Path, answers: dict[bytes, bytes], do: Callable[[kdb.Port], Awaitable[object]]) -> object:
    """What `do` gives, at a port that answers each of these words in pieces of 7 bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = b""
        while piece := await reader.read(100):
            heard += piece
            if heard in answers:
                answer, heard = answers[heard], b""
                for at in range(0, len(answer), 7):
                    writer.write(answer[at : at + 7])
                    await writer.drain()
                    await asyncio.sleep(0)
            elif not any(word.startswith(heard) for word in answers):
                heard = b""
        writer.close()

    async def run() -> object:
        server = await asyncio.start_unix_server(serve, folder / "kgdb")
        async with server, kdb.opened(folder, "kgdb") as port:
            return await do(port)

    return asyncio.run(run())


@pytest.mark.parametrize("state", [AT_THE_PROMPT, IN_THE_PAGER, IN_THE_STUB], ids=["prompt", "pager", "stub"])
def test_kdb_is_brought_to_its_prompt_from_wherever_it_stands(
    tmp_path: Path, state: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdb, "_PROMPT_SECONDS", 0.5)
    assert talk(tmp_path, {**ANSWERS, **state}, lambda port: port.prompt()) is True


def test_where_nobody_answers_there_is_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdb, "_PROMPT_SECONDS", 0.05)
    assert talk(tmp_path, {}, lambda port: port.prompt()) is False


def test_a_kdb_that_does_not_let_gdb_in_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def let_in(port: kdb.Port) -> None:
        monkeypatch.setattr(kdb, "_CONNECT_SECONDS", 0.05)
        await port.hand_over()

    with pytest.raises(HarnessError, match="does not let GDB in"):
        talk(tmp_path, ANSWERS, let_in)


def test_an_answer_begins_behind_its_echo_also_where_an_earlier_prompt_is_still_on_its_way(tmp_path: Path) -> None:
    assert talk(tmp_path, ANSWERS, lambda port: port.ask("ps")) == "1 idle process"


def test_a_port_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with kdb.opened(tmp_path, "kgdb"):
            pass

    with pytest.raises(HarnessError, match="serial port"):
        asyncio.run(run())


@pytest.mark.parametrize("command", ["", " ", "ps\ngo", "ps\x03", "x" * 199, "ps $?#3f", "\u00e9"])
def test_what_kdb_would_not_read_as_one_line_is_refused(command: str) -> None:
    with pytest.raises(UsageError):
        kdb.checked(command)
    assert kdb.checked("md8c1 init_task") == "md8c1 init_task"
