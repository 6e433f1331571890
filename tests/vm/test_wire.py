# SPDX-License-Identifier: Apache-2.0
"""Messages between a VM's supervisor and its clients: whole, as they were, errors included; and who may listen."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import HarnessError, UsageError
from kernloop.vm import wire


@given(st.binary(max_size=5000))
def test_any_bytes_travel_in_one_line(data: bytes) -> None:
    line = wire.line({"out": wire.pack(data)})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert wire.unpack(json.loads(line)["out"]) == data


@given(st.sampled_from([HarnessError, UsageError]), st.text(), st.text())
def test_an_error_is_the_same_on_the_other_side(kind: type[HarnessError], message: str, hint: str) -> None:
    told = json.loads(wire.line(wire.failure(kind(message, hint=hint))))["error"]
    error = wire.raised(told)
    assert (type(error), error.message, error.hint) == (kind, message, hint)


def test_a_path_of_any_length_can_be_listened_at_by_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("er" * 60)
    folder.mkdir(parents=True)
    with wire.bind(folder) as listener:
        assert (folder / wire.SOCKET).stat().st_mode & 0o777 == 0o600
        assert [path.name for path in folder.iterdir()] == [wire.SOCKET]
        with wire.connect(folder) as client:
            server, _ = listener.accept()
            server.sendall(b'{"result": 1}\n')
            assert next(client.messages(5)) == {"result": 1}
            server.close()
    with pytest.raises(OSError, match="refused"):
        wire.connect(folder)


@pytest.fixture
def both(tmp_path: Path) -> Any:
    with wire.bind(tmp_path) as listener, wire.connect(tmp_path) as client:
        server, _ = listener.accept()
        with server:
            yield client, server


@pytest.mark.parametrize("sent", [b"", b'{"result"', b"x" * 100])
def test_a_supervisor_that_breaks_off_is_an_error_with_a_hint(
    both: tuple[wire.Connection, socket.socket], sent: bytes
) -> None:
    client, server = both
    server.sendall(sent)
    server.close()
    with pytest.raises(HarnessError, match="has gone") as caught:
        next(client.messages(5))
    assert caught.value.hint


def test_a_supervisor_that_says_nothing_is_an_error_in_time(both: tuple[wire.Connection, socket.socket]) -> None:
    with pytest.raises(HarnessError, match=r"not answered for 0\.1 s"):
        next(both[0].messages(0.1))


def test_hanging_up_wakes_whoever_reads(both: tuple[wire.Connection, socket.socket]) -> None:
    client, _ = both
    threading.Timer(0.1, client.hang_up).start()
    with pytest.raises(HarnessError, match="has gone"):
        next(client.messages(20))


def test_a_supervisor_that_has_gone_before_the_request_is_sent_is_an_error_with_a_hint(
    both: tuple[wire.Connection, socket.socket],
) -> None:
    client, server = both
    server.close()
    with pytest.raises(HarnessError, match="gone") as caught:
        client.send({"op": "info"})
    assert caught.value.hint
