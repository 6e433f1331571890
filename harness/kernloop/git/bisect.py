# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect`: which commit made a command fail, in this repository's history.

All that a bisect knows lies in its run directory: spec.json (what was asked, with the revisions as commits),
journal.jsonl (each run, on disk before the next begins) and bisect.log (as git writes it, after each commit). So it can
be killed at any moment and resumed. Its worktree and the build's objects lie in the cache, and go when it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git.bisectlog import answer_in, render, replayed
from kernloop.git.history import History
from kernloop.git.journal import Journal
from kernloop.git.probe import GuestProbe, HostProbe
from kernloop.git.remains import JOURNAL, kept, resumable, worktree
from kernloop.git.repository import Commit, Repository, open_repository
from kernloop.git.search import DOUBT, Answer, Probe, Search
from kernloop.git.signature import Signature
from kernloop.git.target import Target
from kernloop.git.vote import Policy, Sign, Standing
from kernloop.git.worktree import Worktree
from kernloop.kernel.build import Built, build
from kernloop.runs import Run, read_json, write_text
from kernloop.verdict import Evidence, Verdict

__all__ = [
    "LOG",
    "SCHEMA",
    "Finding",
    "Plan",
    "Request",
    "Step",
    "execute",
    "plan",
    "remember",
]

SCHEMA = "kernloop.bisect/1"
LOG = "bisect.log"


@dataclass(frozen=True)
class Request:
    """What to search: the commit between `goods` and `bad` since which `command` fails.

    It runs on this machine with `host`, otherwise in a guest of the kernel that `target` says how to build.
    """

    directory: Path
    goods: tuple[str, ...]
    bad: str
    command: tuple[str, ...]
    signature: str | None = None
    runs: int = 1
    fail_if: int = 1
    timeout: float = 120.0
    host: bool = False
    target: Target = field(default_factory=Target)


@dataclass(frozen=True)
class Plan:
    """A request whose revisions are there; `request` has them as commits."""

    request: Request
    repository: Repository
    history: History
    bases: tuple[str, ...]
    policy: Policy
    signature: Signature


@dataclass(frozen=True)
class Step:
    """A commit that was judged: how many of its runs showed the symptom, did not, could not be judged."""

    commit: Commit
    standing: str
    shown: int
    clean: int
    unjudged: int
    why: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The answer: `first_bad`, or the `candidates` that skips leave.

    `share`: at least so many of a bad commit's runs show the symptom. `doubt`: how probable it is that the first bad
    commit lies before the one found. `replayed`: git, given the log, comes to the same answer.
    """

    verdict: Verdict
    summary: str
    next: str
    first_bad: Commit | None
    candidates: tuple[Commit, ...]
    share: float
    doubt: float
    replayed: bool
    evidence: tuple[Evidence, ...]
    steps: tuple[Step, ...]


def plan(request: Request) -> Plan:
    """Look at what was asked, before anything is made. Raises UsageError for what cannot be searched."""
    policy, signature = Policy(request.runs, request.fail_if), Signature(request.signature)
    if not request.command:
        raise UsageError("there is no command to judge commits by", hint="it comes after --")
    repository = open_repository(request.directory)
    bad, goods = repository.resolve(request.bad), tuple(dict.fromkeys(map(repository.resolve, request.goods)))
    bases = repository.bases(goods, bad)
    history = repository.history(goods, bad)
    return Plan(replace(request, goods=goods, bad=bad), repository, history, bases, policy, signature)


def remember(path: Path) -> Request:
    """What the bisect in the run directory `path` was asked. Raises UsageError when it cannot go on."""
    resumable(path)
    spec = read_json(path / "spec.json")
    return Request(
        Path(spec["directory"]),
        tuple(spec["goods"]),
        spec["bad"],
        tuple(spec["command"]),
        spec["signature"],
        spec["runs"],
        spec["fail_if"],
        spec["timeout"],
        spec["host"],
        Target.remembered(spec["target"]),
    )


def execute(what: Plan, record: Run, say: Callable[[str], None]) -> Finding:
    """Search, or go on with it. Raises Refused, and HarnessError for what can be cured and resumed."""
    common = what.repository.common
    with closing(what.repository), kept(record, what.repository.root, common) as scratch:
        tree = worktree(scratch, common)
        tree.prepare(what.request.bad)
        journal = Journal(record.path / JOURNAL)
        search = _search(what, record, journal, _probe(what, record, journal, tree, scratch / "build", say), say)
        answer = search.run()
        text = render(search, what.repository.commit, answer)
        write_text(record.path / LOG, text)
        same = answer_in(replayed(common, scratch / "replay", text)) == set(answer.candidates)
        return _finding(what, record, search, answer, same)


def _probe(
    what: Plan, record: Run, journal: Journal, tree: Worktree, objects: Path, say: Callable[[str], None]
) -> Probe:
    request, output = what.request, record.path / "output"
    if request.host:
        return HostProbe(tree.checkout, tree.path, request.command, request.timeout, what.signature, output)

    target = request.target.pinned(record.path / "given")

    # One folder for all commits: what two of them share is not built twice.
    def make(commit: str) -> Built:
        tree.checkout(commit)
        return build(target.build(tree.path, objects))

    return GuestProbe(
        make,
        target.run(request.command, request.timeout),
        what.signature,
        output,
        built=journal.kernels,
        title=lambda commit: what.repository.commit(commit).short,
        say=say,
    )


def _search(what: Plan, record: Run, journal: Journal, probe: Probe, say: Callable[[str], None]) -> Search:
    describe = what.repository.commit

    steps = 0

    def on_step(commit: str, left: int) -> None:
        nonlocal steps
        steps += 1
        if journal.exhausted(commit):
            record.note("step", number=steps, left=left, commit=commit)
            again = "once more " if commit in search.tallies else ""
            say(f"step {steps} of about {steps + left}: {again}{describe(commit).short}")

    def on_judged(commit: str) -> None:
        tally = search.tallies[commit]
        record.note("judged", commit=commit, standing=tally.standing, why=tally.why)
        write_text(record.path / LOG, render(search, describe))

    search = Search(
        what.history,
        what.request.goods,
        what.request.bad,
        lambda commit: journal(commit, lambda: probe(commit)),
        what.policy,
        bases=what.bases,
        name=lambda commit: describe(commit).short,
        on_step=on_step,
        on_judged=on_judged,
    )
    return search


def _finding(what: Plan, record: Run, search: Search, answer: Answer, same: bool) -> Finding:
    describe = what.repository.commit
    candidates = tuple(map(describe, answer.candidates))
    first = candidates[0] if len(candidates) == 1 else None
    verdict = Verdict.PASS if first and answer.doubt <= DOUBT else Verdict.INCONCLUSIVE
    more = f"give it more --runs than {what.policy.runs}: the symptom shows in {answer.share:.0%} of the runs, or more"
    if first is None:
        summary = f"one of {len(candidates)} commits is the first bad one; those between could not be judged"
        then = "the steps say why; a --fragment, a --signature or a cherry-picked fix may make them testable"
    elif verdict is Verdict.PASS:
        summary, then = f"{first.short} is the first bad commit", f"git show {first.sha[:12]}"
    else:
        summary, then = f"{first.short} may be the first bad commit; {answer.doubt:.0%} that it came before", more
    return Finding(
        verdict,
        summary,
        then,
        first,
        candidates,
        answer.share,
        answer.doubt,
        same,
        _evidence(search, answer, record),
        tuple(_step(search, describe(commit)) for commit in search.tallies),
    )


# The run that showed the symptom at the earliest bad commit, and runs that did not where good ends.
def _evidence(search: Search, answer: Answer, record: Run) -> tuple[Evidence, ...]:
    found = []
    for commit, sign, what in [
        (answer.bad, Sign.SHOWN, "the symptom at the bad commit"),
        *((commit, Sign.CLEAN, "no symptom at the last good commit") for commit in answer.good),
    ]:
        shots = search.tallies[commit].shots if commit in search.tallies else []
        files = [shot.evidence for shot in shots if shot.sign is sign and shot.evidence]
        if files:
            found.append(Evidence(files[-1], f"{what} {commit[:12]}"))
    return (*found, Evidence(str(record.path / LOG), "for git bisect replay"))


def _step(search: Search, commit: Commit) -> Step:
    tally = search.tallies[commit.sha]
    missed = tally.standing is Standing.GOOD and commit.sha not in (*search.goods, *search.believed_good())
    shown, clean = tally.count(Sign.SHOWN), tally.count(Sign.CLEAN)
    return Step(
        commit,
        "missed" if missed else str(tally.standing),
        shown,
        clean,
        len(tally.shots) - shown - clean,
        tally.why,
        tuple(dict.fromkeys(shot.evidence for shot in tally.shots if shot.evidence)),
    )
