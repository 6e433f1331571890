# SPDX-License-Identifier: Apache-2.0
"""The agent's frames: however the bytes are cut, the same frames come out, and nonsense is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import UsageError
from kernloop.vm.frames import Decoder, Frame, Kind, encode, run_request

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(list(Kind)), st.integers(0, 0xFFFF), st.binary(max_size=64)), max_size=8
)
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(FRAMES, st.lists(st.integers(0, 600)))
def test_any_split_of_the_bytes_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode(frame) for frame in frames)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = Decoder()
    found = [frame for begin, end in pairwise(places) for frame in decoder.feed(data[begin:end])]
    assert found == frames


@given(FRAMES, st.binary(min_size=1, max_size=7))
def test_a_torn_frame_is_kept_back(frames: list[Frame], torn: bytes) -> None:
    data = b"".join(encode(frame) for frame in frames) + encode(Frame(Kind.STDOUT, 1, b"12345678"))[: len(torn)]
    assert list(Decoder().feed(data)) == frames


def test_a_frame_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="Y"):
        list(Decoder().feed(struct.pack("<cxHI", b"Y", 0, 0)))


def test_a_length_that_no_agent_sends_is_an_error_and_not_awaited() -> None:
    with pytest.raises(ValueError, match="4294967295 bytes"):
        list(Decoder().feed(struct.pack("<cxHI", b"O", 0, 0xFFFFFFFF)))


@given(st.lists(WORDS, min_size=1).filter(lambda words: bool(words[0])), st.dictionaries(WORDS, WORDS, max_size=3))
def test_a_command_goes_over_word_by_word(argv: list[str], env: dict[str, str]) -> None:
    *parts, last = run_request(argv, cwd="/root", env=env).split(b"\0")
    assert last == b""
    words = [part.decode() for part in parts]
    assert words == ["/root", str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]


def test_bytes_of_the_command_line_that_are_no_utf8_survive() -> None:
    word = b"caf\xe9".decode(errors="surrogateescape")
    assert b"caf\xe9\0" in run_request(["echo", word], cwd="/", env={})


@pytest.mark.parametrize("argv", [["echo", *["x"] * 5000], ["echo", "y" * (1 << 20)]], ids=["words", "bytes"])
def test_a_command_that_is_longer_than_a_guest_takes_is_the_callers_mistake(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="too long for a guest") as caught:
        run_request(argv, cwd="/root", env={})
    assert "script" in caught.value.hint


@pytest.mark.parametrize("argv", [[], [""], ["a\0b"], ["a", "b\0"]])
def test_a_command_that_c_strings_cannot_hold_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="command needs a name"):
        run_request(argv, cwd="/", env={})
