# SPDX-License-Identifier: Apache-2.0
"""Which tests there are, which of them a verify runs, and what a scheduler can claim."""

from __future__ import annotations

from collections.abc import Sequence

from kernloop.errors import UsageError

__all__ = ["CLAIMS", "DEFAULT", "QUICK", "TESTS", "check_claims", "choose"]

# In scxsuite's order of running (guest/scxsuite.c).
TESTS = (
    "idle",
    "saturation",
    "fork-storm",
    "affinity-storm",
    "cpuset",
    "cgroup-weights",
    "cgroup-storm",
    "leak",
    "partial",
    "wakeup",
    "fairness",
    "sleeper",
    "work-conservation",
    "kthreads",
    "policy-mix",
    "policy-flips",
    "rt-dl",
    "starvation",
    "hotplug",
    "reload",
)
# To be had while one waits, after each edit: does it load, stall, starve, keep to CPU masks, come and go?
QUICK = ("idle", "saturation", "affinity-storm", "reload")
DEFAULT = TESTS

# guest/claims.c has the same.
CLAIMS = ("weights", "cgroups", "partial", "hotplug")


def choose(names: Sequence[str], *, quick: bool = False, everything: bool = False) -> tuple[str, ...]:
    """The tests to run, in their order. Raises UsageError for a name that there is not, or two choices at once."""
    if (bool(names), quick, everything).count(True) > 1:
        raise UsageError("--tests, --quick and --all each choose the tests", hint="give one of them")
    unknown = [name for name in names if name not in TESTS]
    if unknown:
        raise UsageError(f"there is no test called {unknown[0]!r}", hint="there are: " + " ".join(TESTS))
    chosen = names or (QUICK if quick else TESTS if everything else DEFAULT)
    return tuple(name for name in TESTS if name in chosen)


def check_claims(claims: Sequence[str]) -> None:
    """Raises UsageError for a claim that there is not."""
    unknown = [name for name in claims if name not in CLAIMS]
    if unknown:
        raise UsageError(f"a scheduler cannot claim {unknown[0]!r}", hint="there are: " + " ".join(CLAIMS))
