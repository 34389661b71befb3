"""What is as declared in a provider's answer is used; null, missing or of another type counts as not said.

Answers vary more than their descriptions: one odd field must cost neither the item nor the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar, get_args

import msgspec

T = TypeVar("T")


class Unreadable(ValueError):
    """It is no JSON, or not what it should be as a whole."""


def whole(body: bytes, kind: type[T]) -> T:
    """An answer that has to be as declared; raises Unreadable."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise Unreadable(str(problem)) from None


def items(raws: Iterable[msgspec.Raw], kind: type[T]) -> list[T]:
    """What can be used of a list."""
    return [one for one in (item(raw, kind) for raw in raws) if one is not None]


def item(raw: msgspec.Raw | bytes, kind: type[T]) -> T | None:
    """An object with every field that is as declared; None where it is no object. Raises Unreadable."""
    try:
        with suppress(msgspec.ValidationError):
            return msgspec.json.decode(raw, type=kind)
        known: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise Unreadable(str(problem)) from None
    return _as_far_as_it_goes(known, kind) if isinstance(known, dict) else None


def _as_far_as_it_goes(known: dict[str, Any], kind: type[T]) -> T:
    values = {}
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.encode_name not in known:
            continue
        value, inner = known[field.encode_name], _struct(field.type)
        try:
            within = inner is not None and isinstance(value, dict)
            values[field.name] = _as_far_as_it_goes(value, inner) if within else msgspec.convert(value, field.type)  # type: ignore[arg-type]
        except msgspec.ValidationError:
            continue
    return kind(**values)


def _struct(declared: Any) -> type[msgspec.Struct] | None:
    """The object that a field holds, if it holds one."""
    kinds = (declared, *get_args(declared))
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
