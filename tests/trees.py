# SPDX-License-Identifier: Apache-2.0
"""Kernel source trees and a small kernel built of each, shared by all tests that need a kernel of our own.

They lie in the machine's cache, so a second run of the tests builds only what changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir
from kernloop.kernel import refs
from kernloop.kernel.build import BuildRequest, Built, build
from kernloop.kernel.checkout import checkout
from kernloop.kernel.kernel import Kernel

__all__ = [
    "FRAGMENTS",
    "OLDER",
    "SETTINGS",
    "appended",
    "built",
    "checked",
    "kernel",
    "linux",
    "request",
    "restored",
    "tiny",
]

# Beside the default kernel, for what must not hold for one release only.
OLDER = "debian:6.12"
# What only a kernel of our own has, in one.
FRAGMENTS = ("modules", "kunit", "kgdb", "pstore", "lkdtm", "watchdog")
SETTINGS = (
    ("KUNIT_EXAMPLE_TEST", "m"),
    # What a distribution's kernel checks and tiny leaves out, so that crashes on purpose end as they do there.
    ("STACKPROTECTOR", "y"),
    ("STACKPROTECTOR_STRONG", "y"),
    ("VMAP_STACK", "y"),
    ("HARDENED_USERCOPY", "y"),
    ("FORTIFY_SOURCE", "y"),
    ("UBSAN", "y"),
    ("UBSAN_BOUNDS", "y"),
    ("SLUB_DEBUG", "y"),
    ("SCHED_STACK_END_CHECK", "y"),
    ("DEBUG_LIST", "y"),
    ("DEBUG_ATOMIC_SLEEP", "y"),
)


@cache
def linux(ref: str = refs.DEFAULT) -> Path:
    """The source of a kernel, to be edited by tests that put it right again (`appended`)."""
    found = refs.resolve(ref)
    folder = cache_dir() / "testing" / f"linux-{found.release}"

    def make(staging: Path) -> None:
        checkout(found, staging, git=False)

    return ensure(folder, make, what="a kernel tree for tests")


def request(ref: str = refs.DEFAULT) -> BuildRequest:
    return BuildRequest(linux(ref), profile="tiny", fragments=FRAGMENTS, settings=SETTINGS)


@cache
def built(ref: str = refs.DEFAULT) -> Built:
    """The kernel of `request`: modules, KUnit, KGDB, pstore, lkdtm, watchdogs; minutes the first time."""
    return build(request(ref))


@contextlib.contextmanager
def tiny() -> Iterator[Path]:
    """The same tree, built without the fragments, as documents do; `tree:` is the kernel of `request` afterwards."""
    build(BuildRequest(linux(), profile="tiny"))
    try:
        yield linux()
    finally:
        if built.cache_info().currsize:
            build(request())


@cache
def checked() -> Kernel:
    """The profile debug of the same tree: KASAN, lockdep, lkdtm; minutes the first time. `tree:` stays what it was."""
    folder = cache_dir() / "testing/checked"
    found = build(BuildRequest(linux(), profile="debug", folder=folder)).kernel
    assert found is not None
    return found


def kernel(ref: str = refs.DEFAULT) -> Kernel:
    found = built(ref).kernel
    assert found is not None
    return found


@contextlib.contextmanager
def appended(name: str, text: str) -> Iterator[Path]:
    """The file `name` of the tree with `text` at its end; it is as it was after the block."""
    file = linux() / name
    before = file.read_text()
    file.write_text(before + text)
    try:
        yield file
    finally:
        file.write_text(before)


@contextlib.contextmanager
def restored(name: str) -> Iterator[Path]:
    """The file `name` of the tree, to be edited; afterwards it is the very file that it was, so no build sees it."""
    file = linux() / name
    kept = linux().parent / f"{file.name}.{os.getpid()}"
    file.rename(kept)
    shutil.copyfile(kept, file)
    try:
        yield file
    finally:
        kept.replace(file)
