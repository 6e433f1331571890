# SPDX-License-Identifier: Apache-2.0
"""What a VM is asked for, through JSON and back; names; and what the registry of live VMs lets through."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernloop import runs
from kernloop.errors import HarnessError, UsageError
from kernloop.host.paths import runs_dir
from kernloop.vm.request import VERB, VmRequest, check_name, live, reserved
from kernloop.vm.topology import Node, Topology

NODES = st.builds(Node, st.none() | st.tuples(st.integers(0, 63), st.integers(0, 63)), st.integers(1, 9999))
TOPOLOGIES = st.builds(
    Topology,
    cpus=st.integers(1, 64),
    sockets=st.integers(0, 4),
    nodes=st.lists(NODES, max_size=3).map(tuple),
    distances=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(11, 254))).map(tuple),
)


@given(
    st.builds(
        VmRequest,
        name=st.text(),
        topology=TOPOLOGIES,
        append=st.lists(st.text()).map(tuple),
        seed=st.none() | st.integers(),
    )
)
def test_a_request_is_the_same_after_a_trip_through_json(request_: VmRequest) -> None:
    assert VmRequest.of_json(json.loads(json.dumps(request_.as_json()))) == request_


@given(st.text(max_size=70))
def test_a_name_is_a_word_and_a_file_name(name: str) -> None:
    good = set(string.ascii_letters + string.digits)
    fits = 0 < len(name) < 64 and name[0] in good and set(name) <= good | set("._-")
    try:
        check_name(name, "VM")
    except UsageError:
        assert not fits
    else:
        assert fits


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(stack: ExitStack, name: str, memory: int = 512) -> None:
    """A run that looks like a live VM's: this process owns it."""
    request = VmRequest(name, memory=memory)
    with reserved(request) as found:
        stack.enter_context(runs.create(VERB, "kernloop.vm/1", {"subject": found, **request.as_json()}))


def refuse(name: str = "", memory: int = 512) -> HarnessError:
    with pytest.raises(HarnessError) as caught, reserved(VmRequest(name, memory=memory)):
        pass
    assert caught.value.hint
    return caught.value


def test_a_name_is_taken_while_its_vm_lives(stack: ExitStack) -> None:
    begin(stack, "a")
    assert "running already" in refuse("a").message
    stack.close()
    begin(stack, "a")
    assert [spec["subject"] for _, spec in live()] == ["a"]


def test_a_name_that_is_made_up_is_new(stack: ExitStack) -> None:
    for _ in range(5):
        begin(stack, "")
    names = [spec["subject"] for _, spec in live()]
    assert len(set(names)) == 5
    for name in names:
        check_name(name, "VM")


def test_the_limits_count_what_lives(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNLOOP_MAX_VMS", "2")
    monkeypatch.setenv("KERNLOOP_VM_MEMORY", "1000")
    begin(stack, "a")
    assert "more than 1000 MiB" in refuse(memory=489).message
    begin(stack, "b", memory=488)
    assert "the limit is 2" in refuse(memory=0).message
    for wrong in ("many", "-1", "1.5"):
        monkeypatch.setenv("KERNLOOP_MAX_VMS", wrong)
        assert isinstance(refuse(), UsageError)


def test_a_run_that_is_only_about_to_be_is_no_vm_yet(stack: ExitStack) -> None:
    begin(stack, "a")
    [run] = runs_dir().iterdir()
    (run / "spec.json").unlink()
    assert live() == []
