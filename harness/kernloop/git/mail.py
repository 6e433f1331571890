# SPDX-License-Identifier: Apache-2.0
"""A patch file taken apart: its messages in their order, each with subject, author and diff as git reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git import paths
from kernloop.git.command import git

__all__ = ["Message", "read"]

# Headers of a mail as git-am's detect_patch_format wants them, and its first line in an mbox.
_MAIL = re.compile(rb"\s*(?:From [^\n]*\n)?(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)+")
_DIFF = re.compile(r"^(?:diff --git |--- |GIT binary patch)", re.M)
_PART = re.compile(r"\[[^\]]*?(\d+)/\d+\]")
_HINT = "give the output of git format-patch or git diff, or an mbox"


@dataclass(frozen=True)
class Message:
    """`file` holds the mail, or the diff where there is none (`mail` is False then); `part` is N of [PATCH N/M]."""

    number: int
    file: Path
    mail: bool
    subject: str
    author: str
    diff: str
    part: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return paths.names(self.diff)


def read(data: bytes, folder: Path) -> tuple[Message, ...]:
    """The messages of a patch file, those without a diff too; `folder` takes a file of each.

    Raises UsageError for what is empty or has no diff at all, and for a diff that git cannot read.
    """
    if not data.strip():
        raise UsageError("the patch is empty", hint=_HINT)
    messages = _split(data, folder) if _is_mail(data) else (_bare(data, folder),)
    if not any(message.diff for message in messages):
        raise UsageError("there is no diff in it: this is no patch", hint=_HINT)
    for message in messages:
        if message.diff:
            _check(message, folder)
    return messages


def _is_mail(data: bytes) -> bool:
    found = _MAIL.match(data)
    return found is not None and re.search(rb"^(?:From|Subject):", found[0], re.M | re.I) is not None


def _split(data: bytes, folder: Path) -> tuple[Message, ...]:
    box = folder / "mbox"
    box.write_bytes(data.lstrip())
    mails = folder / "mails"
    mails.mkdir()
    done = git(folder, "mailsplit", "-b", f"-o{mails}", box, check=False)
    if done.status != 0:
        raise UsageError(f"git cannot take the mbox apart: {done.stderr.strip()}", hint=_HINT)
    return tuple(_one(number, file, folder) for number, file in enumerate(sorted(mails.iterdir()), 1))


def _one(number: int, file: Path, folder: Path) -> Message:
    told, patch = folder / f"{number}.message", folder / f"{number}.diff"
    done = git(folder, "mailinfo", "--encoding=UTF-8", told, patch, stdin=file, check=False)
    fields = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    diff = patch.read_text(errors="replace") if patch.exists() else ""
    subject = _PART.search(_raw_subject(file))
    return Message(
        number,
        file,
        True,
        fields.get("Subject", ""),
        f"{fields.get('Author', '')} <{fields.get('Email', '')}>",
        diff if _DIFF.search(diff) else "",
        int(subject[1]) if subject else None,
    )


def _bare(data: bytes, folder: Path) -> Message:
    file = folder / "1.diff"
    file.write_bytes(data)
    diff = data.decode(errors="replace")
    return Message(1, file, False, "", "", diff if _DIFF.search(diff) else "", None)


def _raw_subject(file: Path) -> str:
    found = re.search(rb"^Subject:([^\n]*(?:\n[ \t][^\n]*)*)", file.read_bytes(), re.M | re.I)
    return found[1].decode(errors="replace") if found else ""


# Only the syntax: `--numstat` applies nothing (git-apply(1)).
def _check(message: Message, folder: Path) -> None:
    patch = folder / f"{message.number}.diff"
    done = git(
        folder, "apply", "--numstat", "-z", patch, check=False, env={"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    )
    if done.status == 0:
        return
    what = f"message {message.number}" if message.mail else "the diff"
    bad = [name for name in message.names if paths.unsafe(name)]
    said = done.stderr.strip().removeprefix("error: ")
    if bad:
        raise UsageError(f"{what} names {bad[0]}, which {paths.unsafe(bad[0])}", hint="do not apply it: read it first")
    raise UsageError(
        f"git cannot read {what}: {said}",
        hint="it was cut, or a mail program or an editor changed its lines: get it again, unchanged",
    )
