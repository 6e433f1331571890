# SPDX-License-Identifier: Apache-2.0
"""Configuration files of coding agents, JSON or TOML, edited in place: what is not ours stays as its owner wrote it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import MutableMapping
from enum import Enum
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from kernloop.errors import HarnessError, UsageError

__all__ = ["Config", "Format", "read"]


_MEND = "nothing was touched; mend it first"


class Format(Enum):
    JSON = "JSON"
    TOML = "TOML"


class Config:
    """A parsed configuration; nothing is written before `save`."""

    def __init__(self, path: Path, form: Format, text: str) -> None:
        self._path = path
        self._format = form
        self._text = text
        # A tomlkit document or a dict: the first remembers comments and layout.
        self._value: Any = _parsed(path, form, text)

    @property
    def empty(self) -> bool:
        return not self._value

    def has(self, section: str) -> bool:
        return section in self._value

    def put(self, section: str, name: str, entry: dict[str, Any]) -> None:
        """Set `name` in `section` to `entry`; other keys that it has there stay."""
        if section not in self._value:
            self._value[section] = tomlkit.table(is_super_table=True) if self._format is Format.TOML else {}
        found = self._entries(section).get(name)
        if found is None:
            self._entries(section)[name] = _table(entry) if self._format is Format.TOML else entry
        elif not isinstance(found, MutableMapping):
            raise UsageError(f"{self._path}: {section}.{name} is no table", hint="remove it, then install again")
        else:
            for key, value in entry.items():
                if found.get(key) != value:
                    found[key] = value

    def remove(self, section: str, name: str) -> bool:
        """Whether there was a `name` to remove from `section`."""
        if section not in self._value or name not in self._entries(section):
            return False
        del self._entries(section)[name]
        return True

    def drop_if_empty(self, section: str) -> None:
        if section in self._value and not self._entries(section):
            del self._value[section]

    def save(self) -> bool:
        """Write it, in one step, where there is something new. A link is followed: dotfiles often are links."""
        text = self.rendered()
        if text == self._text:
            return False
        target = self._path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.kernloop")
        staged.write_text(text)
        staged.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o600)
        staged.replace(target)
        self._text = text
        return True

    def rendered(self) -> str:
        """The text that `save` writes. Raises HarnessError when the library would damage something."""
        if self._format is Format.TOML:
            text = tomlkit.dumps(self._value)
            if tomllib.loads(text) != self._value.unwrap():
                raise HarnessError(f"{self._path} cannot be edited without damage", hint="add the server by hand")
            return text
        indent = re.search(r"^([ \t]+)\S", self._text, re.M)
        text = json.dumps(self._value, indent=indent[1] if indent else 2, ensure_ascii=False)
        return text + ("\n" if self._text.endswith("\n") or not self._text else "")

    def _entries(self, section: str) -> MutableMapping[str, Any]:
        entries = self._value[section]
        if not isinstance(entries, MutableMapping):
            raise UsageError(f"{self._path}: {section} is no table", hint="mend it, then install again")
        return entries


def read(path: Path, form: Format) -> Config:
    """The configuration at `path`, empty when there is none. Raises UsageError when it does not parse."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint=_MEND) from None
    return Config(path, form, text)


def _parsed(path: Path, form: Format, text: str) -> Any:
    try:
        if form is Format.TOML:
            tomllib.loads(text)
            return tomlkit.parse(text)
        value = json.loads(text, object_pairs_hook=_unique) if text.strip() else {}
    except (ValueError, TOMLKitError) as error:
        raise UsageError(f"{path} is no valid {form.value}: {error}", hint=_MEND) from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is no JSON object", hint=_MEND)
    return value


# A key that is there twice would be lost.
def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _table(entry: dict[str, Any]) -> Any:
    table = tomlkit.table()
    for key, value in entry.items():
        table.add(key, value)
    return table
