# SPDX-License-Identifier: Apache-2.0
"""Writes harness/kernloop/sched/check/data/sched_api.toml from kernel sources:

.venv/bin/python tests/sched_api.py TREE TREE ... > harness/kernloop/sched/check/data/sched_api.toml

The oldest tree first; where two say different things of a kfunc, the later one counts. What no source says, which kfunc
took the place of which, is written by hand below.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Tables", "render", "tables"]

_FOLDERS = ("kernel/sched", "kernel/bpf", "kernel/trace", "kernel/cgroup", "fs")
_FLAGS = {"KF_SLEEPABLE": "sleepable", "KF_RET_NULL": "null", "KF_ACQUIRE": "acquire", "KF_RELEASE": "release"}
# old, new, the first release with the new one, what else changes.
REPLACED = (
    ("scx_bpf_dispatch", "scx_bpf_dsq_insert", "6.13", ""),
    ("scx_bpf_dispatch_vtime", "scx_bpf_dsq_insert_vtime", "6.13", ""),
    ("scx_bpf_consume", "scx_bpf_dsq_move_to_local", "6.13", ""),
    ("scx_bpf_dispatch_from_dsq", "scx_bpf_dsq_move", "6.13", ""),
    ("scx_bpf_dispatch_vtime_from_dsq", "scx_bpf_dsq_move_vtime", "6.13", ""),
    ("scx_bpf_dispatch_from_dsq_set_slice", "scx_bpf_dsq_move_set_slice", "6.13", ""),
    ("scx_bpf_dispatch_from_dsq_set_vtime", "scx_bpf_dsq_move_set_vtime", "6.13", ""),
    (
        "scx_bpf_cpu_rq",
        "scx_bpf_cpu_curr",
        "6.18",
        "it gives the task that runs there; scx_bpf_locked_rq() the locked rq",
    ),
    ("scx_bpf_now", "bpf_ktime_get_ns", "6.14", "a helper, slower, that each kernel has"),
)


@dataclass
class Tables:
    """Of one tree: kfunc -> groups and flags; op -> groups; ops that may sleep; members of the ops table, constants."""

    release: str
    groups: dict[str, set[str]] = field(default_factory=dict)
    flags: dict[str, set[str]] = field(default_factory=dict)
    allowed: dict[str, list[str]] = field(default_factory=dict)
    sleepable: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def tables(tree: Path) -> Tables:
    """What the sources of `tree` say."""
    head = (tree / "Makefile").read_text()
    numbers = [re.search(rf"^{word} = (\d+)", head, re.M) for word in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    found = Tables(".".join(number[1] for number in numbers if number))
    for folder in _FOLDERS:
        for path in sorted((tree / folder).rglob("*.c")):
            text = path.read_text(errors="replace")
            if "BTF_ID_FLAGS(func," not in text:
                continue
            for group, body in re.findall(
                r"BTF_(?:KFUNCS|SET8)_START\((\w+)\)(.*?)BTF_(?:KFUNCS|SET8)_END", text, re.S
            ):
                for name, flags in re.findall(r"BTF_ID_FLAGS\(func, (\w+)(?:, ([^)]*))?\)", body):
                    mine = found.flags.setdefault(name, set())
                    mine |= {_FLAGS[flag] for flag in re.findall(r"KF_\w+", flags) if flag in _FLAGS}
                    if group.startswith("scx_kfunc_ids_"):
                        found.groups.setdefault(name, set()).add(group.removeprefix("scx_kfunc_ids_"))
            if "bpf_scx_check_member" in text:
                body = text[text.index("static int bpf_scx_check_member") :]
                body = body[: body.index("default:")]
                found.sleepable = re.findall(r"offsetof\(struct sched_ext_ops, (\w+)\)", body)
            for op, words in re.findall(r"\[SCX_OP_IDX\((\w+)\)\]\s*= ([^,]+),", text):
                found.allowed[op] = [word.lower() for word in re.findall(r"SCX_KF_ALLOW_(\w+)", words)]
    for path in (
        tree / "include/linux/sched/ext.h",
        *(tree / "kernel/sched").glob("ext*/*.[ch]"),
        *(tree / "kernel/sched").glob("ext*.[ch]"),
    ):
        text = path.read_text(errors="replace")
        for body in re.findall(r"^enum scx_\w+ \{(.*?)^\};", text, re.S | re.M):
            found.names |= set(re.findall(r"^\t(SCX_\w+)\b", body, re.M))
        for body in re.findall(r"^struct sched_ext_ops \{(.*?)^\};", text, re.S | re.M):
            found.names |= set(re.findall(r"^\t\w[\w ]*\(\*(\w+)\)\(", body, re.M))
            found.names |= set(re.findall(r"^\t\w[\w ]*[ *](\w+)(?:\[\w+\])?;", body, re.M))
    return found


def render(trees: list[Tables]) -> str:
    """The data file."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# What sched_ext offers a BPF scheduler, by kernel. Made by tests/sched_api.py from the sources of linux "
        + ", ".join(tree.release for tree in trees)
        + ":",
        "# BTF_ID_FLAGS tables of kfuncs, scx_kf_allow_flags[], bpf_scx_check_member(). `replaced` is by hand.",
        "",
        f"releases = {_list([tree.release for tree in trees])}",
        "",
    ]
    for old, new, since, note in REPLACED:
        lines += ["[[replaced]]", f'old = "{old}"', f'new = "{new}"', f'since = "{since}"', f'note = "{note}"', ""]
    lines += [
        "# By op, the groups of kfuncs that it may call; any op may call those of `any`, `idle`, `cid`.",
        "[allowed]",
    ]
    lines += [f"{op} = {_list(groups)}" for op, groups in trees[-1].allowed.items()]
    lines += ["", "# Ops whose programs may sleep, by release."]
    lines += ["[sleepable]", *(f'"{tree.release}" = {_list(tree.sleepable)}' for tree in trees), ""]
    lines.append("# Groups of each kfunc of sched_ext, and the releases that have it.")
    lines.append("[kfuncs]")
    for name in sorted({name for tree in trees for name in tree.groups}):
        having = [tree for tree in trees if name in tree.groups]
        lines.append(
            f"{name} = {{ groups = {_list(sorted(having[-1].groups[name]))}, "
            f"in = {_list([tree.release for tree in having])} }}"
        )
    everywhere = set.intersection(*(tree.names for tree in trees))
    lines += ["", "# Constants and members of sched_ext_ops that not all of them have.", "[names]"]
    lines += [f'"{tree.release}" = {_list(sorted(tree.names - everywhere))}' for tree in trees]
    for flag in _FLAGS.values():
        names = sorted({name for tree in trees for name in tree.flags if flag in tree.flags[name]})
        if flag == "sleepable":
            lines += ["", "# KF_SLEEPABLE", f"{flag}_kfuncs = [", *(f'    "{name}",' for name in names), "]"]
    return "\n".join(_ordered(lines)) + "\n"


# Arrays of the top level must come before the tables.
def _ordered(lines: list[str]) -> list[str]:
    at = next(index for index, line in enumerate(lines) if line == "# KF_SLEEPABLE")
    head = lines.index("[[replaced]]")
    return [*lines[:head], *lines[at:], "", *lines[head : at - 1]]


def _list(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


if __name__ == "__main__":
    sys.stdout.write(render([tables(Path(argument)) for argument in sys.argv[1:]]))
