# SPDX-License-Identifier: Apache-2.0
"""The one door to git: no hook, editor, pager, signature, prompt or background work of the user's is started by us.

What of the user's configuration would change output that is parsed is set as well. See git-config(1), git(1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.host import process
from kernloop.host.process import Completed

__all__ = ["LONG", "git", "git_path", "lines", "operation", "text", "top"]

# A checkout of a whole kernel on a busy machine.
LONG = 600.0

_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "color.ui=false",
    "commit.gpgSign=false",
    "advice.detachedHead=false",
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
    "diff.renames=true",
    "diff.external=",
    "format.noprefix=false",
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
# A hook or `rebase --exec` that calls kernloop has these set; they would outrank the folder that we name (git(1)).
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
            "GIT_CONFIG_PARAMETERS", "GIT_EXTERNAL_DIFF", "GIT_REFLOG_ACTION")  # fmt: skip
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_EDITOR": "true",
    "GIT_SEQUENCE_EDITOR": "true",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    # Looking at the user's repository does not write to its index.
    "GIT_OPTIONAL_LOCKS": "0",
}
# What git leaves in its folder while an operation stands still (wt-status.c, wt_status_get_state).
_OPERATIONS = (
    ("rebase-apply/applying", "am"),
    ("rebase-apply", "rebase"),
    ("rebase-merge", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
)


def git(
    folder: Path,
    *words: str | Path,
    seconds: float = 120,
    check: bool = True,
    config: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    hint: str = "",
) -> Completed:
    """Run git in `folder`. Raises HarnessError as `process.run` does."""
    argv: list[str | Path] = ["env", *(word for name in _FOREIGN for word in ("-u", name)), "git"]
    for setting in (*_CONFIG, *config):
        argv += ["-c", setting]
    return process.run(
        [*argv, *words],
        seconds=seconds,
        what=f"git {words[0]}",
        cwd=folder,
        env={**_ENVIRONMENT, **(env or {})},
        stdin=stdin,
        check=check,
        hint=hint,
    )


def text(folder: Path, *words: str | Path) -> str:
    """What git prints, without the last newline."""
    return git(folder, *words).stdout.rstrip("\n")


def lines(folder: Path, *words: str | Path) -> list[str]:
    """What git prints, split at NUL if it has any, at newlines if not."""
    said = git(folder, *words).stdout
    return [word for word in said.split("\0" if "\0" in said else "\n") if word]


def top(folder: Path) -> Path | None:
    """The top of the work tree that `folder` belongs to; None where no file of it is git's.

    Raises UsageError where `folder` is no folder, or lies below the top.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="give the top of a kernel tree")
    found = git(folder, "rev-parse", "--show-toplevel", check=False)
    if found.status != 0:
        if "dubious ownership" in found.stderr:
            raise UsageError(
                f"git does not trust {folder}: another user owns it",
                hint=f"git config --global --add safe.directory {folder.resolve()}",
            )
        return None
    root = Path(found.stdout.rstrip("\n")).resolve()
    if root == folder.resolve():
        return root
    # A tree unpacked inside somebody's repository is its own; a folder of the repository is not.
    if git(folder, "ls-files", "--error-unmatch", ".", check=False).status != 0:
        return None
    raise UsageError(f"{folder} lies inside the repository {root}", hint=f"give its top: {root}")


def git_path(tree: Path, name: str) -> Path:
    """A file of git's own folder, which a linked worktree has elsewhere."""
    return _git_paths(tree, [name])[0]


def operation(tree: Path) -> str:
    """What stands still in `tree`: am, rebase, merge, cherry-pick, revert, bisect; "" if nothing does."""
    places = _git_paths(tree, [name for name, _ in _OPERATIONS])
    return next((word for place, (_, word) in zip(places, _OPERATIONS, strict=True) if place.exists()), "")


def _git_paths(tree: Path, names: list[str]) -> list[Path]:
    words = [word for name in names for word in ("--git-path", name)]
    return [tree / line for line in text(tree, "rev-parse", *words).split("\n")]
