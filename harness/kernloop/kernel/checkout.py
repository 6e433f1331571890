# SPDX-License-Identifier: Apache-2.0
"""The source of a kernel as a tree to edit, from the distribution's package."""

from __future__ import annotations

from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host import process, progress
from kernloop.host.cache import need_space
from kernloop.kernel import source
from kernloop.kernel.kernel import Kernel, KernelSource

__all__ = ["checkout"]

_MIB_NEEDED = 2000
# Tens of thousands of files once: speed counts, not size; and nobody else's configuration.
_SOMEBODY = {
    f"GIT_{who}_{part}": value
    for who in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "kernloop"), ("EMAIL", "kernloop@localhost"))
}
_GIT = ("-c", "core.compression=1", "-c", "gc.auto=0", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")


def checkout(kernel: Kernel, folder: Path, *, git: bool) -> KernelSource:
    """Put the source that fits `kernel` best into `folder`, with `git` as a repository of one commit.

    Raises UsageError when `folder` holds something, HarnessError when there is no source to be had.
    """
    folder = folder.expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already", hint="name a folder that is new or empty")
    found = source.candidate(kernel)
    if found is None:
        raise HarnessError(f"no kernel source for {kernel.release} is to be had", hint="kernloop doctor checks apt")
    tree = source.full_tree(found)
    need_space(folder, _MIB_NEEDED * (2 if git else 1), "a kernel's source")
    progress.say(f"copying {found.package} to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    process.run(["cp", "-a", "--reflink=auto", f"{tree}/.", folder], seconds=900, what="copying the source")
    if git:
        progress.say("making it a git repository")
        for words in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "-m", f"{found.package} {found.version}")):
            process.run(["git", *_GIT, *words], seconds=900, what=f"git {words[0]}", cwd=folder, env=_SOMEBODY)
    return found
