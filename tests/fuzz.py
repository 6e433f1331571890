# SPDX-License-Identifier: Apache-2.0
"""`python tests/fuzz.py TARGET SECONDS FOLDER [OPTION...]`: a target of fuzz_targets.py by atheris.

The process ends with it. In FOLDER are the seeds and, when a check fails, the bytes that failed it. FOLDER may be kept:
what was found to reach new code is there for the next time. OPTIONs are libFuzzer's: `-seed=1`, `-jobs=2`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kernloop.report", "fuzz_targets"]):
    from fuzz_targets import TARGETS

_LONGEST = 6000
_SLOW_SECONDS = 5


def main() -> None:
    name, seconds, place, *options = sys.argv[1:]
    folder = Path(place)
    target = TARGETS[name]
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    atheris.Setup(
        [
            sys.argv[0],
            f"-dict={words}",
            f"-max_len={_LONGEST}",
            f"-timeout={_SLOW_SECONDS}",
            f"-max_total_time={seconds}",
            f"-artifact_prefix={folder}/{name}-",
            "-print_final_stats=1",
            *options,
            str(corpus),
        ],
        target.check,
    )
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in word)


main()
