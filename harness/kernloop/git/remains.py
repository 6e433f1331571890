# SPDX-License-Identifier: Apache-2.0
"""What a bisect keeps in the cache while it lasts: a worktree, a build's objects. Kept for a resume, else removed.

They lie in a folder named after the repository and not after the run: ccache knows a source by its path, so the next
bisect of the same commits compiles little.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kernloop.errors import HarnessError, SubjectError, UsageError
from kernloop.git.worktree import Worktree
from kernloop.host import progress
from kernloop.host.cache import exclusive
from kernloop.host.paths import cache_dir
from kernloop.runs import Run, listing, read_json, reopen, write_json
from kernloop.verdict import Verdict

__all__ = ["JOURNAL", "abandon", "kept", "resumable", "unfinished", "worktree"]

JOURNAL = "journal.jsonl"
_OWNER = "owner.json"


@contextlib.contextmanager
def kept(record: Run, root: Path, common: Path | None = None) -> Iterator[Path]:
    """The folder of the bisect in the run directory `record`, of the tree `root`, whose .git is `common` if it has one.

    An error that a cure and another try may overcome leaves it as it is; after anything else nothing is left.
    """
    scratch = _take(record, root, common)
    try:
        yield scratch
    except KeyboardInterrupt:
        raise HarnessError("interrupted", hint=_resume(record)) from None
    except SubjectError:
        _remove(scratch)
        raise
    except HarnessError as error:
        if isinstance(error, UsageError) and not _begun(record):
            _remove(scratch)
            raise
        hint = f"{error.hint}; then: {_resume(record)}" if error.hint else _resume(record)
        raise HarnessError(error.message, hint=hint, evidence=error.evidence) from None
    except OSError as error:
        raise HarnessError(
            f"cannot write {error.filename or scratch}: {error.strerror}",
            hint=f"free some space; then: {_resume(record)}",
        ) from None
    _remove(scratch)


def worktree(scratch: Path, common: Path) -> Worktree:
    """Its worktree, by a name that is nobody else's."""
    return Worktree(common, scratch / f"kernloop-{scratch.name}")


def resumable(path: Path) -> None:
    """Raise UsageError unless the run directory `path` is that of a bisect which can go on."""
    spec, verdict = read_json(path / "spec.json"), read_json(path / "verdict.json")
    if spec.get("verb") != "bisect":
        raise UsageError(f"{path.name} is no bisect", hint="kernloop runs list")
    if verdict.get("abandoned") or verdict.get("verdict") not in (None, Verdict.UNKNOWN, Verdict.INFRA):
        raise UsageError(f"{path.name} is over: {verdict.get('summary')}", hint=f"kernloop runs show {path.name}")


def unfinished() -> Path:
    """The run directory of the newest bisect that ended early. Raises UsageError when there is none."""
    for run in listing():
        if run.verb == "bisect" and not run.live:
            with contextlib.suppress(UsageError):
                resumable(run.path)
                return run.path
    raise UsageError("there is no bisect to go on with", hint="kernloop runs list")


def abandon(path: Path, schema: str) -> None:
    """Remove what the unfinished bisect at `path` keeps. Raises UsageError while it is under way."""
    resumable(path)
    with reopen(path, schema) as record:
        _remove(_scratch(path))
        record.judge({"schema": schema, "verdict": Verdict.INFRA, "summary": "abandoned", "abandoned": True})


def _resume(record: Run) -> str:
    return f"kernloop bisect --resume {record.id}"


def _begun(record: Run) -> bool:
    journal = record.path / JOURNAL
    return journal.exists() and journal.stat().st_size > 0


# The folder that is the run's already, or else the first of the tree's that is nobody's.
def _take(record: Run, root: Path, common: Path | None) -> Path:
    with exclusive("bisect", what="taking a folder", seconds=900):
        for owner in _owners():
            if not Path(read_json(owner).get("run", "/")).exists():
                _remove(owner.parent)  # nobody can resume that one
        name = f"{root.name}-{hashlib.sha256(str(common or root).encode()).hexdigest()[:8]}"
        free = (_home() / f"{name}{f'-{n}' if n else ''}" for n in count())
        scratch = _scratch(record.path) or next(one for one in free if not (one / _OWNER).exists())
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(scratch / _OWNER, {"run": str(record.path), "common": str(common or "")})
    return scratch


def _home() -> Path:
    return cache_dir() / "bisect"


def _owners() -> list[Path]:
    return list(_home().glob(f"*/{_OWNER}"))


def _scratch(run: Path) -> Path | None:
    return next((owner.parent for owner in _owners() if read_json(owner).get("run") == str(run)), None)


# What says whose it is goes last.
def _remove(scratch: Path | None) -> None:
    if scratch is None:
        return
    common = read_json(scratch / _OWNER).get("common")
    progress.say("removing the worktree and what was built")
    if common:
        worktree(scratch, Path(common)).remove()
    for path in scratch.iterdir():
        if path.name != _OWNER:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
