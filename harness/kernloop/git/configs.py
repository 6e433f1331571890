# SPDX-License-Identifier: Apache-2.0
"""`kernloop bisect --good-config --bad-config`: which symbols of one tree's configuration make a command fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kernloop.errors import UsageError
from kernloop.git.journal import Journal
from kernloop.git.probe import GuestProbe
from kernloop.git.remains import JOURNAL, kept, resumable
from kernloop.git.signature import Signature
from kernloop.git.symbols import Culprit, Mix, SymbolSearch, Values
from kernloop.git.target import Target
from kernloop.git.vote import Policy, Sign
from kernloop.kernel import config, fragments
from kernloop.kernel.build import BuildRequest, Built, build, opened
from kernloop.kernel.fragments import Asked
from kernloop.kernel.tree import open_tree
from kernloop.runs import Run, read_json
from kernloop.verdict import Evidence, Verdict

__all__ = ["SCHEMA", "ConfigFinding", "ConfigRequest", "check", "execute", "remember"]

SCHEMA = "kernloop.bisect.config/1"
_GOOD, _BAD, _MIXES = "good.config", "bad.config", "configs"


@dataclass(frozen=True)
class ConfigRequest:
    """`command` fails in a kernel of `tree` with the configuration `bad_config`, and not with `good_config`."""

    tree: Path
    good_config: Path
    bad_config: Path
    command: tuple[str, ...]
    signature: str | None = None
    runs: int = 1
    fail_if: int = 1
    timeout: float = 120.0
    target: Target = field(default_factory=Target)


@dataclass(frozen=True)
class ConfigFinding:
    """`symbols` make the difference, all of them together; `judged` configurations were built and run for it."""

    verdict: Verdict
    summary: str
    next: str
    symbols: tuple[Culprit, ...]
    differing: int
    judged: int
    evidence: tuple[Evidence, ...]


def check(request: ConfigRequest) -> None:
    """Raise UsageError for what cannot be searched, before anything is made."""
    Policy(request.runs, request.fail_if)
    Signature(request.signature)
    if not request.command:
        raise UsageError("there is no command to judge kernels by", hint="it comes after --")
    open_tree(request.tree).check_clean()
    for file in (request.good_config, request.bad_config):
        _read(file)


def remember(path: Path) -> ConfigRequest | None:
    """What the bisect in the run directory `path` was asked; None when that was about commits. Raises UsageError."""
    resumable(path)
    spec = read_json(path / "spec.json")
    if "good_config" not in spec:
        return None
    return ConfigRequest(
        Path(spec["tree"]),
        _kept_or(path / _GOOD, spec["good_config"]),
        _kept_or(path / _BAD, spec["bad_config"]),
        tuple(spec["command"]),
        spec["signature"],
        spec["runs"],
        spec["fail_if"],
        spec["timeout"],
        Target.remembered(spec["target"]),
    )


def execute(request: ConfigRequest, record: Run, say: Callable[[str], None]) -> ConfigFinding:
    """Search, or go on with it. Raises Refused, and HarnessError for what can be cured and resumed."""
    with kept(record, request.tree) as scratch:
        good, bad = _read(request.good_config), _read(request.bad_config)
        for name, values in ((_GOOD, good), (_BAD, bad)):
            _write(record.path / name, values)
        (record.path / _MIXES).mkdir(exist_ok=True)
        journal = Journal(record.path / JOURNAL)
        work = _Work(request, record.path / _MIXES, scratch / "build", scratch / "mix.config")
        probe = GuestProbe(
            work.build,
            request.target.run(request.command, request.timeout),
            Signature(request.signature),
            record.path / "output",
            built=journal.kernels,
            title=lambda key: f"configuration {key}",
            say=say,
        )
        steps = 0

        def on_step(mix: Mix, left: int) -> None:
            nonlocal steps
            steps += 1
            _write(work.file(mix.key), mix.values)
            if journal.exhausted(mix.key):
                record.note("step", number=steps, configuration=mix.key, symbols=mix.taken)
                say(f"step {steps}: {left} of {len(search.symbols)} symbols, configuration {mix.key}")

        def on_judged(mix: Mix) -> None:
            tally = search.tallies[mix.key]
            record.note("judged", configuration=mix.key, standing=tally.standing, why=tally.why)

        say("asking Kconfig where the configurations differ")
        search = SymbolSearch(
            good,
            bad,
            work.settle,
            lambda mix: journal(mix.key, lambda: probe(mix.key)),
            Policy(request.runs, request.fail_if),
            on_step=on_step,
            on_judged=on_judged,
        )
        return _finding(search, search.run(), record, work)


# The tree's Kconfig and make, for one configuration after another in one build folder.
class _Work:
    def __init__(self, request: ConfigRequest, mixes: Path, objects: Path, staged: Path) -> None:
        self.tree = request.tree
        self._target = request.target
        self._mixes = mixes
        self._objects = objects
        self._staged = staged

    def file(self, key: str) -> Path:
        """Where a configuration that is judged is written."""
        return self._mixes / f"{key}.config"

    def settle(self, values: Values) -> Values:
        _write(self._staged, values)
        request = self._build_request(self._staged)
        with opened(request) as folder:
            config.configure(folder.path, folder.make, request.wish)
            return config.values(folder.path / ".config")

    def build(self, key: str) -> Built:
        return build(self._build_request(self.file(key)))

    def _build_request(self, base: Path) -> BuildRequest:
        target = self._target
        return BuildRequest(self.tree, config=base, jobs=target.jobs, llvm=target.llvm, folder=self._objects)


def _finding(search: SymbolSearch, found: tuple[Culprit, ...], record: Run, work: _Work) -> ConfigFinding:
    names = tuple(culprit.symbol for culprit in found)
    told = [f"CONFIG_{culprit.symbol}={culprit.bad} (not {culprit.good})" for culprit in found if not culprit.needed_by]
    needed = [f"CONFIG_{culprit.symbol}" for culprit in found if culprit.needed_by]
    also = f", which needs {', '.join(needed)}" if needed else ""
    makes = "makes" if len(told) == 1 else "together make"
    bad = search.mix(names)
    evidence = [Evidence(str(work.file(bad.key)), "the good configuration with these symbols: it fails")]
    for symbol in names:
        rest = search.mix(tuple(one for one in names if one != symbol))
        evidence.append(Evidence(str(work.file(rest.key)), f"the same without CONFIG_{symbol}: it does not"))
    for mix, sign, what in ((bad, Sign.SHOWN, "the symptom"), (search.mix(()), Sign.CLEAN, "no symptom")):
        shots = search.tallies[mix.key].shots
        evidence += [Evidence(shot.evidence, what) for shot in shots if shot.sign is sign and shot.evidence][-1:]
    return ConfigFinding(
        Verdict.PASS,
        f"{' and '.join(told)} {makes} it fail{also}",
        f"kernloop kernel build {work.tree} --base {record.path / _GOOD} "
        + " ".join(f"--config {culprit.symbol}={culprit.bad}" for culprit in found),
        found,
        len(search.symbols),
        len(search.tallies),
        tuple(evidence),
    )


def _read(file: Path) -> Values:
    try:
        asked = fragments.parse(file.read_text(), str(file))
    except (OSError, UnicodeError):
        raise UsageError(f"cannot read the configuration {file}", hint="name a .config of this tree") from None
    if not asked:
        raise UsageError(f"{file} sets no symbol", hint="name a .config of this tree")
    return {one.symbol: one.value for one in asked}


def _write(file: Path, values: Values) -> None:
    file.write_text(fragments.text(Asked(symbol, value, "") for symbol, value in values.items()))


# A bisect keeps the configurations it was given: theirs may have changed since.
def _kept_or(file: Path, given: str) -> Path:
    return file if file.exists() else Path(given)
