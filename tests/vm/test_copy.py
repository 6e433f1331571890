# SPDX-License-Identifier: Apache-2.0
"""Archives into a guest and out of it: the same files again, and none elsewhere whatever an archive says."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop.errors import HarnessError, UsageError
from kernloop.vm import copy

LIMIT = 1 << 20
WORDS = st.sampled_from(["x", "..", ".", "", "x/..", "../..", "out", "/", "/tmp", "x/../../evil"])


def test_a_folder_comes_out_as_it_went_in(tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/file").write_bytes(b"data")
    make, name = copy.archived(tmp_path / "in", LIMIT)
    assert name == "in"
    copy.extract(io.BytesIO(make("other")), "other", tmp_path / "out")
    assert (tmp_path / "out/sub/file").read_bytes() == b"data"


def test_a_folder_given_by_dots_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in/sub")
    assert copy.archived(Path(".."), LIMIT)[1] == "in"
    assert copy.archived(Path(), LIMIT)[1] == "sub"


def test_what_is_too_large_or_not_there_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(LIMIT + 1))
    with pytest.raises(UsageError, match="1 MiB"):
        copy.archived(tmp_path, LIMIT)[0]("x")
    with pytest.raises(UsageError, match="not there"):
        copy.archived(tmp_path / "none", LIMIT)


def test_a_folder_is_not_replaced_and_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"new")
    make, _ = copy.archived(tmp_path / "file", LIMIT)
    (tmp_path / "out/file").mkdir(parents=True)
    with pytest.raises(UsageError, match="already"):
        copy.extract(io.BytesIO(make("file")), "file", tmp_path / "out")
    (tmp_path / "old").write_bytes(b"old")
    copy.extract(io.BytesIO(make("file")), "file", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new"


def test_an_archive_that_is_cut_off_or_empty_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    data = copy.archived(tmp_path / "file", LIMIT)[0]("file")
    for length in (0, 100, 600, 50_000):
        with pytest.raises(HarnessError):
            copy.extract(io.BytesIO(data[:length]), "file", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.lists(st.tuples(WORDS, WORDS, st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]))))
def test_no_archive_writes_anywhere_but_to_the_target(members: list[tuple[str, str, bytes]]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, link, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    with tempfile.TemporaryDirectory() as root:
        home = Path(root) / "home"
        home.mkdir()
        (home / "mine").write_bytes(b"mine")
        try:
            copy.extract(io.BytesIO(out.getvalue()), "x", home / "out")
        except HarnessError:
            assert not (home / "out").exists()
        assert {path.name for path in home.iterdir()} <= {"mine", "out"}
        assert (home / "mine").read_bytes() == b"mine"
        assert [path.name for path in Path(root).iterdir()] == ["home"]


@given(st.data())
def test_an_archive_with_any_bytes_changed_is_an_error_of_ours_or_none(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        source = Path(root) / "x"
        source.mkdir()
        (source / "file").write_bytes(b"data")
        (source / "link").symlink_to("file")
        spoilt = bytearray(copy.archived(source, LIMIT)[0]("x"))
        for at in data.draw(st.lists(st.integers(0, 2047), max_size=4)):
            spoilt[at] = data.draw(st.integers(0, 255))
        # The sums are right all the same: only then is the rest looked at.
        for at in range(0, 2048, 512):
            total = sum(spoilt[at : at + 148]) + 8 * 32 + sum(spoilt[at + 156 : at + 512])
            spoilt[at + 148 : at + 156] = b"%06o\0 " % total
        with contextlib.suppress(HarnessError):
            copy.extract(io.BytesIO(bytes(spoilt)), "x", Path(root) / "out")
        assert {path.name for path in Path(root).iterdir()} <= {"x", "out"}


@given(st.binary(max_size=1000), st.integers(1, 300))
def test_pieces_are_the_data(data: bytes, size: int) -> None:
    pieces = list(copy.pieces(data, size))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= size for piece in pieces)


@pytest.mark.parametrize(
    "members",
    [
        [("x/../../out", b"0", "")],
        [("/out", b"0", "")],
        [("x/link", b"2", "/etc"), ("x/link/out", b"0", "")],
        [("x/link", b"2", "../.."), ("x/link/out", b"0", "")],
        # Each link alone stays inside; followed through each other they do not.
        [("x/a", b"2", "d/e/../.."), ("x/d/e", b"2", ".."), ("x/a/out", b"0", "")],
        [("x/hard", b"1", "../out")],
        [("x/null", b"3", "")],
        [("x/fifo", b"6", "")],
    ],
)
def test_what_leads_out_of_the_target_is_refused_by_name(members: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
    data.seek(0)
    (tmp_path / "in").mkdir()
    with pytest.raises(HarnessError, match=r"leads out of|neither a file"):
        copy.extract(data, "x", tmp_path / "in/x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]
