# SPDX-License-Identifier: Apache-2.0
"""What a commit's message must have: who signed it in which order, whom it fixes, a subject that can be read.

The rules are those of Documentation/process/submitting-patches.rst. Pure: a commit's text in, problems out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["FIXES", "CommitText", "Fixed", "Person", "Problem", "fixes", "person", "signatures", "subject"]

FIXES = re.compile(r"([0-9a-fA-F]+)(?:\s+\(?(?P<quote>[\"'])(?P<subject>.*)(?P=quote)\)?)?\s*")
_PERSON = re.compile(r"\s*\"?(?P<name>.*?)\"?\s*<(?P<email>[^<>\s]+)>\s*(?:#.*)?")
_LONGEST = 75
_LEFT_OVER = ("fixup!", "squash!", "amend!")


@dataclass(frozen=True)
class Problem:
    """`level`: error (not ready to be sent), warning, note. `check` is a stable word; `line` 0 where there is none."""

    level: str
    check: str
    message: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Person:
    name: str
    email: str

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"

    def is_(self, other: Person) -> bool:
        return self.email.lower() == other.email.lower()


@dataclass(frozen=True)
class CommitText:
    """`trailers` are key and value, as git finds them, in their order."""

    commit: str
    subject: str
    author: Person
    committer: Person
    trailers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fixed:
    """What a hash in a Fixes: tag turned out to be."""

    commit: str
    subject: str
    is_ancestor: bool
    in_series: bool = False


def person(text: str) -> Person | None:
    match = _PERSON.fullmatch(text)
    return Person(match["name"], match["email"]) if match else None


def subject(commit: CommitText) -> Iterator[Problem]:
    """What is left over of a rebase, and what a reader of the log would miss."""
    text = commit.subject
    if text.startswith(_LEFT_OVER):
        yield Problem("error", "left-over", f"{text.split(' ')[0]} was not squashed: git rebase -i --autosquash")
        return
    if not re.match(r"[^\s:][^:]*: \S|Revert \"|Merge ", text):
        yield Problem("warning", "subject", "the subject has no prefix, as in `sched/ext: Fix ...`")
    if len(text) > _LONGEST:
        yield Problem("warning", "subject", f"the subject has {len(text)} characters, more than {_LONGEST}")
    if text.endswith("."):
        yield Problem("warning", "subject", "the subject ends with a full stop")


def signatures(commit: CommitText) -> Iterator[Problem]:
    """The chain of Signed-off-by: the author's, then those who passed it on, the last one who sends it."""
    signed: list[Person] = []
    rows = [(key.lower(), person(value), value) for key, value in commit.trailers]
    for at, (key, who, value) in enumerate(rows):
        if key not in ("signed-off-by", "co-developed-by"):
            continue
        if who is None:
            yield Problem("error", key, f"no name and address: {value!r}")
        elif key == "signed-off-by":
            signed.append(who)
        else:
            follows = rows[at + 1] if at + 1 < len(rows) else ("", None, "")
            if follows[0] != "signed-off-by" or follows[1] is None or not follows[1].is_(who):
                message = f"Co-developed-by: {who} is not directly followed by that person's Signed-off-by"
                yield Problem("error", "co-developed-by", message)
            if who.is_(commit.author):
                yield Problem("warning", "co-developed-by", f"{who} is the author already")
    yield from _chain(commit, signed)


def _chain(commit: CommitText, signed: list[Person]) -> Iterator[Problem]:
    author, committer = commit.author, commit.committer
    if not signed:
        yield Problem("error", "signed-off-by", "no Signed-off-by: git commit --amend -s, or git rebase --signoff")
        return
    if not any(who.is_(author) for who in signed):
        namesake = next((who for who in signed if who.name.lower() == author.name.lower()), None)
        if namesake:
            message = f"From is {author}, but it is signed by {namesake}: the addresses differ"
            yield Problem("warning", "from-mismatch", message)
        else:
            yield Problem("error", "signed-off-by", f"the author {author} has not signed it")
    elif any(who.is_(author) and who.name != author.name for who in signed):
        other = next(who for who in signed if who.is_(author))
        yield Problem("warning", "from-mismatch", f"From is {author}, but it is signed as {other}: the names differ")
    if not signed[-1].is_(committer) and not signed[-1].is_(author):
        message = f"the last Signed-off-by is {signed[-1]}'s, and {committer} sends it: who sends signs last"
        yield Problem("error", "signed-off-by-order", message)
    elif not author.is_(committer) and signed[-1].is_(author) and any(who.is_(committer) for who in signed):
        message = f"{committer} signed before the author {author}: the order is that of the hands it went through"
        yield Problem("error", "signed-off-by-order", message)
    doubled = {who.email.lower() for who in signed if sum(other.is_(who) for other in signed) > 1}
    # Once as an author and once for passing it on is right; side by side it is a slip.
    if any(a.is_(b) for a, b in pairwise(signed)) and doubled:
        yield Problem("warning", "signed-off-by", f"{', '.join(sorted(doubled))} signed twice in a row")


def fixes(commit: CommitText, find: Callable[[str], Fixed | None], *, shallow: bool) -> Iterable[Problem]:
    """Each Fixes: names a commit before this one, by twelve digits or more and by its very subject."""
    for key, value in commit.trailers:
        if key.lower() != "fixes":
            continue
        match = FIXES.fullmatch(value)
        if not match:
            yield Problem("error", "fixes", f'not as in `Fixes: 123456789abc ("subject")`: {value}')
            continue
        digits = match[1]
        found = find(digits)
        if found is None:
            level, why = ("warning", ": the clone is shallow") if shallow else ("error", "")
            yield Problem(level, "fixes", f"{digits} is no commit of this repository{why}")
            continue
        right = f'Fixes: {found.commit[:12]} ("{found.subject}")'
        if len(digits) < 12:
            yield Problem("error", "fixes", f"{digits} has fewer than 12 digits: {right}")
        if match["subject"] is None:
            yield Problem("error", "fixes", f"the subject is not there: {right}")
        elif match["subject"] != found.subject:
            yield Problem("error", "fixes", f"{digits} has another subject: {right}")
        elif not re.fullmatch(r'[0-9a-f]+ \(".*"\)', value):
            yield Problem("warning", "fixes", f"not written as in {right}")
        if not found.is_ancestor:
            yield Problem("error", "fixes", f"{digits} is not in this history before the commit")
        elif found.in_series:
            yield Problem("warning", "fixes", f"{digits} is a commit of this series: squash the fix into it")
