# SPDX-License-Identifier: Apache-2.0
"""Rules about DSQs: created, filled, drained, sorted."""

from __future__ import annotations

from kernloop.sched.check.dsq import Dsq, covered
from kernloop.sched.check.finding import Level
from kernloop.sched.check.report import Report
from kernloop.sched.check.scene import Scene, Use
from kernloop.sched.check.trace import Event

__all__ = ["created_twice", "mixed_order", "never_consumed", "uncreated", "vtime_builtin"]

_FIFO = ("insert", "move")
_SORTED = ("insert_vtime", "move_vtime")
_FILL = _FIFO + _SORTED


def uncreated(scene: Scene, report: Report) -> None:
    """Inserts into, and moves from, DSQs that nobody creates."""
    created = _all(scene, "create")
    for kinds, rule in ((_FILL, "uncreated-dsq"), (("consume",), "consume-uncreated-dsq")):
        for use in scene.uses(*kinds):
            _uncreated(scene, report, use, created, rule)
    for use in scene.uses("consume"):
        if use.dsq.kind in ("local", "global", "local_on", "builtin") and use.sure:
            report.at("consume-builtin-dsq", "must", use.event)


# The DSQs that calls of these kinds name; "unknown" among them if there may be calls that were not come to.
def _all(scene: Scene, *kinds: str) -> list[Dsq]:
    return [use.dsq for use in scene.uses(*kinds)] + [Dsq("unknown")] * scene.unseen(*kinds)


def _uncreated(scene: Scene, report: Report, use: Use, created: list[Dsq], rule: str) -> None:
    dsq = use.dsq
    if dsq.kind == "unknown":
        if created:
            report.at(
                rule,
                "unknown",
                use.event,
                "the number of the DSQ is computed: whether that one was created cannot be told",
            )
        else:
            report.at(rule, "may", use.event, "no DSQ is created anywhere")
        return
    if dsq.kind != "own":
        return
    sure = [one for one in created if one.kind == "own"]
    open_ended = any(one.kind == "unknown" for one in created)
    if covered(dsq, sure):
        return
    if dsq.single and not open_ended:
        known = ", ".join(sorted({_name(one) for one in sure})) or "none"
        tail = " (the number is that of a variable in .rodata)" if dsq.tunable else ""
        level: Level = "unknown" if not use.sure else "may" if dsq.tunable else "must"
        report.at(rule, level, use.event, f"DSQ {dsq.low:#x} is never created{tail}; created: {known}")
    elif not open_ended and sure and not any(one.may_be(dsq) for one in sure):
        report.at(rule, "must" if use.sure else "unknown", use.event, f"DSQs {_name(dsq)} are never created")
    elif not sure and not open_ended:
        report.at(rule, "must" if use.sure else "unknown", use.event, "no DSQ is created anywhere")
    else:
        report.at(rule, "unknown", use.event, "whether all DSQs that this can be were created cannot be told")


def _name(dsq: Dsq) -> str:
    if dsq.kind != "own":
        return dsq.kind
    return f"{dsq.low:#x}" if dsq.single else f"{dsq.low:#x} to {dsq.high:#x}"


def created_twice(scene: Scene, report: Report) -> None:
    """init creates the same DSQ again: the second call fails."""
    for trace in scene.of_op("init"):
        seen: dict[int, Event] = {}
        for use in scene.uses("create"):
            if use.event.entry != trace.entry or not use.dsq.single:
                continue
            first = seen.setdefault(use.dsq.low, use.event)
            if first.site != use.event.site and _passed(first, use.event):
                report.at("dsq-created-twice", "may", use.event, "", ((first, "created here already"),))


# Whether the later one lies on a way that the first has succeeded on.
def _passed(first: Event, later: Event) -> bool:
    path = later.path
    while path is not None:
        if path is first.path:
            return True
        path = path.before
    return first.path is None


def never_consumed(scene: Scene, report: Report) -> None:
    """DSQs of the scheduler's own that tasks go into and none comes out of."""
    drained = _all(scene, "consume", "iterate", "reenqueue", "peek")
    created = _all(scene, "create")
    for use in scene.uses(*_FILL):
        dsq = use.dsq
        if dsq.kind == "unknown" and not drained:
            report.at("unconsumed-dsq", "may", use.event, "nothing moves tasks out of any DSQ")
        elif dsq.kind == "unknown":
            report.at(
                "unconsumed-dsq",
                "unknown",
                use.event,
                "the number of the DSQ is computed: whether that one is drained cannot be told",
            )
        if dsq.kind != "own":
            continue
        if covered(dsq, drained) or (dsq.single and not any(one.may_be(dsq) for one in created)):
            continue
        if not any(one.may_be(dsq) for one in drained):
            level: Level = "unknown" if not use.sure else "may" if dsq.tunable else "must"
            report.at(
                "unconsumed-dsq", level, use.event, f"tasks go into DSQ {_name(dsq)}, and nothing moves them out of it"
            )
        else:
            report.at(
                "unconsumed-dsq", "unknown", use.event, "whether all DSQs that this can be are drained cannot be told"
            )


def vtime_builtin(scene: Scene, report: Report) -> None:
    """Sorted inserts into DSQs that cannot be sorted."""
    for use in scene.uses(*_SORTED):
        if use.dsq.kind in ("local", "global", "local_on", "builtin") and use.sure:
            name = {"local": "SCX_DSQ_LOCAL", "global": "SCX_DSQ_GLOBAL", "local_on": "SCX_DSQ_LOCAL_ON"}.get(
                use.dsq.kind, "a built-in DSQ"
            )
            report.at(
                "vtime-builtin", "must", use.event, f"{name} is first in, first out: it cannot be sorted by vtime"
            )


def mixed_order(scene: Scene, report: Report) -> None:
    """One DSQ used both as a FIFO and sorted."""
    sorted_uses = [use for use in scene.uses(*_SORTED) if use.dsq.single and use.sure]
    for use in scene.uses(*_FIFO):
        if not use.dsq.single or not use.sure:
            continue
        for other in sorted_uses:
            if other.dsq.low == use.dsq.low and _together(use.event, other.event):
                if use.event.joined or other.event.joined:
                    continue
                report.at(
                    "mixed-order",
                    "must",
                    use.event,
                    f"DSQ {use.dsq.low:#x} is sorted by vtime elsewhere",
                    ((other.event, "inserted by vtime"),),
                )
                break


# Not so when a setting in .rodata decides for one or the other.
def _together(one: Event, other: Event) -> bool:
    for sym, (low, high, nonzero) in one.facts.items():
        if sym.kind != "ro" and not (sym.kind == "op" and _setting(sym)):
            continue
        known = other.facts.get(sym)
        if known is None:
            continue
        if (
            known[1] < low
            or high < known[0]
            or (nonzero and known[0] == known[1] == 0)
            or (known[2] and low == high == 0)
        ):
            return False
    return True


def _setting(sym: object) -> bool:
    while getattr(sym, "kind", "") == "op":
        sym = sym.b  # type: ignore[attr-defined]
    return getattr(sym, "kind", "") == "ro"
