# SPDX-License-Identifier: Apache-2.0
"""`debug drgn`: an expression or a script on a Program, and its value as what JSON can hold.

What is asked runs in this process with its rights, as drgn's own command runs it: it is the caller's code.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import traceback
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from drgn import FaultError, Object, ObjectNotFoundError, Program, Symbol, Type, TypeKind

from kernloop.debug.helpers.tasks import Who
from kernloop.debug.names import names
from kernloop.debug.orc import Call, Stack
from kernloop.debug.values import Limits, plain
from kernloop.errors import SubjectError, UsageError

__all__ = ["Answer", "Limits", "evaluate", "run"]

_SEQUENCES = (TypeKind.ARRAY,)
_MOST_TEXT = 64 << 10
# What a kernel's addresses begin at, and no number of it is by chance.
_ADDRESSES = 0xFFFF000000000000
# Of a structure, for people; of each of several, only what it is and where.
_MOST_LINES = 200


@dataclass(frozen=True)
class Answer:
    """`value` for JSON and `text` for people; `next` is where to go on in a sequence, `count` its length where known;
    `output` is what was printed."""

    type: str
    value: Any
    text: str
    next: int | None = None
    count: int | None = None
    output: str = ""


def evaluate(prog: Program, expression: str, limits: Limits, since: int = 0) -> Answer:
    """The value of `expression`. Raises UsageError for what is no Python, SubjectError for what it raises."""
    try:
        code = compile(expression, "-e", "eval")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"no expression: {error}", hint="statements go into a script") from None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            try:
                value = eval(code, names(prog))
            except SystemExit as end:
                raise RuntimeError(f"it exits with {end.code}") from None
            return _answer(value, limits, since, printed)
    except Exception as error:  # noqa: BLE001  whatever the caller's code raises is the caller's
        raise _failed(error, expression) from None


def run(prog: Program, script: Path, quiet: bool, limits: Limits | None = None, since: int = 0) -> Answer:
    """Run a script; its `result`, when it leaves one, is the value. What it prints goes to stdout but with `quiet`."""
    try:
        code = compile(script.read_bytes(), str(script), "exec")
    except OSError as error:
        raise UsageError(f"{script} cannot be read: {error.strerror}", hint="name a script in Python") from None
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"{script} is no Python: {error}", hint="its names are those of debug drgn -e 'help()'"
        ) from None
    printed = io.StringIO()
    known = {**names(prog), "__name__": "__main__", "__file__": str(script)}
    try:
        with contextlib.redirect_stdout(printed) if quiet else contextlib.nullcontext():
            _execute(code, known)
            return _answer(known.get("result"), limits or Limits(), since, printed)
    except Exception as error:  # noqa: BLE001
        raise _failed(error, str(script)) from None


def _answer(value: Any, limits: Limits, since: int, printed: io.StringIO) -> Answer:
    output = printed.getvalue()[:_MOST_TEXT]
    kind = value.type_.type_name() if isinstance(value, Object) else type(value).__name__
    sequence = _sequence(value)
    if sequence is None:
        shown = _plain(value, limits)
        return Answer(kind, shown, _text(value, shown), None, None, output)
    count = len(sequence) if isinstance(sequence, Sized) else None
    taken = list(itertools.islice(iter(sequence), since, since + limits.elements + 1))
    following = since + limits.elements if len(taken) > limits.elements else None
    taken = taken[: limits.elements]
    rows = [_plain(one, limits) for one in taken]
    text = "\n".join(_text(one, row, alone=False) for one, row in zip(taken, rows, strict=True))
    return Answer(kind, rows, text, following, count, output)


def _sequence(value: Any) -> Iterable[Any] | None:
    if isinstance(value, Object):
        type_ = value.type_
        if type_.kind in _SEQUENCES and type_.length and "char" not in str(type_.type.type_name()):
            return [value[place] for place in range(type_.length)]
        return None
    if isinstance(value, (str, bytes, Mapping)) or is_dataclass(value):
        return None
    return value if isinstance(value, Iterable) else None


def _plain(value: Any, limits: Limits) -> Any:
    if isinstance(value, int) and value >= _ADDRESSES:
        return f"{value:#x}"  # JSON's numbers end at 2^53 for many who read it
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Call):
        return str(value)
    if isinstance(value, Object):
        return {"type": value.type_.type_name(), "value": plain(value, limits)}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (Type, Symbol, Who)):
        return str(value)
    if isinstance(value, Mapping):
        shown = {str(key): _plain(one, limits) for key, one in itertools.islice(value.items(), limits.elements)}
        return {**shown, **({"...": f"{len(value) - len(shown)} more"} if len(value) > len(shown) else {})}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name), limits) for one in fields(value)}
    if isinstance(value, Iterable):
        taken = list(itertools.islice(value, limits.elements + 1))
        rest = f"... {len(value) - limits.elements} more" if isinstance(value, Sized) else "... more"
        more = [rest] if len(taken) > limits.elements else []
        return [*(_plain(one, limits) for one in taken[: limits.elements]), *more]
    return str(value)


def _text(value: Any, shown: Any, *, alone: bool = True) -> str:
    if isinstance(value, Object):
        return _object_text(value, alone)
    if isinstance(value, Stack):
        end = [] if value.whole else [f"... {value.why}"]
        return "\n".join([*map(str, value.calls), *end])
    if isinstance(shown, dict):
        return "  ".join(f"{name}={_word(one)}" for name, one in shown.items())
    return _word(shown)


def _object_text(value: Object, alone: bool) -> str:
    try:
        lines = value.format_(dereference=alone).splitlines()
        more = [f"... {len(lines) - _MOST_LINES} more lines: name a member"] if len(lines) > _MOST_LINES else []
        return "\n".join([*lines[:_MOST_LINES], *more])
    except FaultError as error:
        return f"({value.type_.type_name()}) cannot be read: {error}"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict) and set(value) == {"type", "value"}:
        return f"({value['type']}) {value['value']}"
    return str(value)


# sys.exit() ends a script, and not who runs it.
def _execute(code: CodeType, known: dict[str, Any]) -> None:
    try:
        exec(code, known)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"it exits with {end.code}") from None


def _failed(error: Exception, what: str) -> SubjectError:
    lines = traceback.extract_tb(error.__traceback__)
    place = next((f" at line {one.lineno}" for one in reversed(lines) if one.filename == what), "")
    hint = "help() names what there is"
    if isinstance(error, ObjectNotFoundError):
        hint = f"BTF has few variables: Object(prog, 'struct ...', address=prog.symbol({error.name!r}).address)"
    return SubjectError(f"{what}{place}: {type(error).__name__}: {error}", hint=hint)
