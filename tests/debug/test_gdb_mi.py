# SPDX-License-Identifier: Apache-2.0
"""Lines of GDB's machine interface, and what no line of it may do: block, or end in an error that is not ours."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given
from hypothesis import strategies as st

from kernloop.debug.gdb.mi import MiError, one_line, parse, quoted
from kernloop.debug.gdb.state import Frame, Reason, Session, State
from kernloop.debug.gdb.symbols import write_elf
from kernloop.errors import UsageError
from kernloop.vm.kallsyms import Symbols

STOPPED = (
    '*stopped,reason="breakpoint-hit",disp="keep",bkptno="1",frame={addr="0xffffffff81099c34",func="scx_enable",'
    'args=[{name="ops",value="0xffffc9000014f000"},{name="link",value="<optimized out>"}],line="8110"},'
    'thread-id="2",stopped-threads="all"'
)


def test_a_stop_is_read_whole() -> None:
    record = parse(STOPPED)
    assert (record.kind, record.word, record.token) == ("exec", "stopped", None)
    frame = record.values["frame"]
    assert isinstance(frame, dict)
    assert frame["args"] == [
        {"name": "ops", "value": "0xffffc9000014f000"},
        {"name": "link", "value": "<optimized out>"},
    ]


def test_a_list_of_named_values_keeps_the_values() -> None:
    assert parse('7^done,stack=[frame={level="0"},frame={level="1"}]').values == {
        "stack": [{"level": "0"}, {"level": "1"}]
    }


def test_a_key_that_comes_again_is_a_list_of_all_its_values_lists_too() -> None:
    assert parse('^done,a={x="1",x="2",x="3"}').values == {"a": {"x": ["1", "2", "3"]}}
    assert parse('^done,a={x=["1"],x=["2"]}').values == {"a": {"x": [["1"], ["2"]]}}


def test_places_of_a_breakpoint_without_a_key_belong_to_it() -> None:
    found = parse('^done,bkpt={number="1"},{number="1.1"},{number="1.2"}').values
    assert found == {"bkpt": [{"number": "1"}, {"number": "1.1"}, {"number": "1.2"}]}


def test_text_has_its_escapes_undone_and_bytes_put_together() -> None:
    assert parse(r'~"a\tb\n\"c\" \\ \303\274 \e"').text == 'a\tb\n"c" \\ ü \x1b'


def test_a_line_that_is_cut_off_is_refused_or_is_a_shorter_one() -> None:
    whole = parse(STOPPED).values
    for at in range(len(STOPPED)):
        with contextlib.suppress(MiError):
            assert parse(STOPPED[:at]).values.items() <= whole.items()


def test_values_within_values_without_end_are_refused() -> None:
    with pytest.raises(MiError):
        parse("^done,a=" + "[" * 5000)


@given(st.text(alphabet='^*=~&@,{}[]"\\ab-0123 \n(gdb)', max_size=60))
def test_no_line_makes_it_raise_another_error(text: str) -> None:
    with contextlib.suppress(MiError):
        parse(text)


@given(st.text(max_size=60))
def test_what_is_quoted_is_read_back(text: str) -> None:
    assert parse("~" + quoted(text.replace("\r", ""))).text == text.replace("\r", "")


def test_a_second_line_is_no_part_of_a_command() -> None:
    with pytest.raises(UsageError):
        one_line("print 1\nshell id")


def test_a_session_is_the_same_after_a_trip_through_json() -> None:
    frame = Frame(0, 0xFFFFFFFF81099C34, "scx_enable", "kernel/sched/ext/ext.c", 8110, (("ops", "0x1"),))
    for session in (Session(State.STOPPED, Reason.BREAKPOINT, 3, 1, 2, frame), Session(State.LOST, why="gdb is gone")):
        assert Session.of_json(session.as_json()) == session


def test_the_file_of_symbols_is_one_that_binutils_and_gdb_read(tmp_path: Path) -> None:
    # Three names of one token each: kallsyms' own form.
    base = 0xFFFFFFFF81000000
    tokens = [b""] * 256
    tokens[1:4] = [b"Tstartup", b"tlocal_one", b"Dsome_data"]
    symbols = Symbols([base, base + 0x40, base + 0x1000], bytes([1, 1, 1, 2, 1, 3]), [0, 2, 4, 6], tokens)
    write_elf(tmp_path / "out", [symbols[place] for place in range(len(symbols))])
    with (tmp_path / "out").open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = {one.name: (one["st_value"], one["st_size"], one["st_info"]["type"]) for one in table.iter_symbols()}
    assert found["startup"] == (base, 0x40, "STT_FUNC")
    assert found["some_data"][2] == "STT_OBJECT"
    done = subprocess.run(["readelf", "-WS", tmp_path / "out"], capture_output=True, text=True, timeout=20, check=False)
    assert "Warning" not in done.stderr
