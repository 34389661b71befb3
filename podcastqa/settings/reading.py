"""What config.env and the environment say is read with its place, checked against the table, and faults collected.

No fault quotes the value of a secret, nor what could be a secret pasted in the wrong line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podcastqa.errors import SettingsError
from podcastqa.settings.table import TABLE, Setting, a_database, a_path, secrets_in

CONFIG = "PODCASTQA_CONFIG"
"""Says where the file is, so the file cannot say it."""


@dataclass(frozen=True, slots=True)
class Said:
    """One value as it was said, and where; `fault` when the line itself cannot be used."""

    where: str
    setting: Setting | None
    text: str
    base: Path
    fault: str = ""


def in_environment(variables: Mapping[str, str], base: Path) -> Iterator[Said]:
    """The settings among the variables."""
    for name, setting in TABLE.items():
        if name in variables:
            yield Said("environment", setting, variables[name].strip(), base)


def in_file(file: Path) -> Iterator[Said]:
    """Every line of the file that is not a comment."""
    from dotenv.parser import parse_stream

    try:
        with file.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{file} cannot be read: {reason}.") from error
    lines: dict[str, int] = {}
    for binding in bindings:
        if not (binding.key or binding.error):
            continue  # a comment or an empty line
        written = binding.original.string
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        where = f"{file.name} line {line}"
        key = binding.key or ""
        fault = _line_fault(key, binding.value, lines.get(key))
        lines.setdefault(key, line)
        yield Said(where, TABLE.get(key), (binding.value or "").strip(), file.parent, fault)


def _line_fault(key: str, value: str | None, earlier: int | None) -> str:
    """What is wrong with a line before its value is looked at; it never quotes what may be a stray secret."""
    if not key or value is None:
        return "it is not of the form NAME=value"
    if key == CONFIG:
        return f"{CONFIG} can be set in the environment only"
    if key not in TABLE:
        return _unknown(key)
    return f"{key} is already set in line {earlier}" if earlier else ""


def _unknown(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key.upper(), TABLE, n=1, cutoff=0.75)
    name = key if near or re.fullmatch("[A-Z]{2,20}(_[A-Z]{2,20}){1,5}", key) else "that name"
    return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")


def resolved(said: list[Said], *, rehearsal: bool) -> tuple[dict[str, Any], set[str], list[str]]:
    """The value of every setting (later wins), every secret, and every fault."""
    values = {s.field: s.parse(s.default, Path()) if s.default else "" for s in TABLE.values()}
    secrets: set[str] = set()
    faults: list[str] = []
    for one in said:
        setting = one.setting
        try:
            if one.fault or setting is None:
                raise ValueError(one.fault)
            value = _value(setting, one)
        except ValueError as error:
            faults.append(f"{one.where}: {error}.".replace("?.", "?"))
            continue
        if setting.secret and value:
            secrets |= secrets_in(one.text)
        # Tests keep what they write where their environment says; a config.env must not lead them to real books.
        if not (rehearsal and setting.parse in (a_path, a_database) and one.where != "environment"):
            values[setting.field] = value
    return values, secrets, faults


def _value(setting: Setting, one: Said) -> Any:
    if setting.is_unset(one.text):
        return setting.parse(setting.default, one.base) if setting.default else ""
    if not one.text:
        raise ValueError(f"{setting.name} is empty; leave it out, and {setting.default} is used")
    if not one.text.isprintable():
        raise ValueError(f"{setting.name} holds a line break or a control character")
    if setting.secret and len(one.text) < 4:
        raise ValueError(f"{setting.name} is too short to be a secret (4 characters at least)")
    try:
        return setting.parse(one.text, one.base)
    except ValueError as error:
        # What is long enough to be a key pasted in the wrong line is not quoted either.
        quoted = "its value" if setting.secret or len(one.text) > 30 else repr(one.text)
        raise ValueError(f"{setting.name}: {quoted} {error}") from None
