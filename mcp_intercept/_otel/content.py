"""Content as JSON of at most so many characters, whatever its size: what does not fit is neither read nor copied."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from mcp_intercept._otel.json_like import is_array, is_object

MIN_LENGTH = 16
"""Less room than this, nothing can be shown in."""

_CUT = "..."
_CUT_VALUE = f'"{_CUT}"'
_CUT_MEMBER = f'{_CUT_VALUE}: ""'
_COMMA = ", "

# Deeper than this, nobody reads.
_MAX_DEPTH = 32

# The interpreter refuses to write longer ones.
_HUGE = 10**4000


def to_json(value: Any, limit: int) -> str:
    """`value` as valid JSON of at most `limit` characters.

    Long texts are cut off, and what does not fit is left out, both marked with `...`.

    Args:
        value: JSON-like data; or pydantic models, which are shown as on the wire.
        limit: At least `MIN_LENGTH`.
    """
    return _write(value, limit, 0)


def _write(value: Any, room: int, depth: int) -> str:
    """`value` in at most `room` characters, of which there are enough for `_CUT_VALUE`."""
    if isinstance(value, str):
        return _text(value, room)
    if isinstance(value, BaseModel):
        return _object(_members_of(value), room, depth)
    if is_object(value):
        return _object(value.items(), room, depth)
    if is_array(value):
        return _array(value, room, depth)
    return _other(value, room, depth)


def _text(text: str, room: int) -> str:
    if len(text) <= room:
        written = json.dumps(text)
        if len(written) <= room:
            return written
    # A character may take twelve places.
    low, high = 0, min(len(text), room)
    while low < high:
        middle = (low + high + 1) // 2
        if len(json.dumps(text[:middle] + _CUT)) <= room:
            low = middle
        else:
            high = middle - 1
    return json.dumps(text[:low] + _CUT)


def _other(value: Any, room: int, depth: int) -> str:
    plain: Any
    if isinstance(value, (bytes, bytearray)) or (isinstance(value, int) and abs(value) > _HUGE):
        plain = _name_of(value)
    else:
        plain = to_jsonable_python(value, fallback=_name_of, inf_nan_mode="strings")
    if isinstance(plain, (str, dict, list)):
        return _write(plain, room, depth)
    written = json.dumps(plain)
    return written if len(written) <= room else _CUT_VALUE


def _name_of(value: object) -> str:
    return f"<{type(value).__name__}>"


def _object(members: Iterable[tuple[Any, Any]], room: int, depth: int) -> str:
    def write(member: tuple[Any, Any], room: int) -> str | None:
        name = f"{json.dumps(str(member[0])[:room])}: "
        left = room - len(name)
        return None if left < len(_CUT_VALUE) else name + _write(member[1], left, depth + 1)

    return _container("{}", members, write, _CUT_MEMBER, room, depth)


def _array(items: Iterable[Any], room: int, depth: int) -> str:
    def write(item: Any, room: int) -> str | None:
        return None if room < len(_CUT_VALUE) else _write(item, room, depth + 1)

    return _container("[]", items, write, _CUT_VALUE, room, depth)


def _container(
    brackets: str, parts: Iterable[Any], write: Callable[[Any, int], str | None], cut: str, room: int, depth: int
) -> str:
    if depth > _MAX_DEPTH or room < len(brackets) + len(cut):
        return brackets if not any(True for _ in parts) and room >= len(brackets) else _CUT_VALUE
    written: list[str] = []
    # There is always room left for a comma and the mark of what is left out.
    left = room - len(brackets) - len(cut)
    for part in parts:
        text = write(part, left - len(_COMMA))
        if text is None:
            written.append(cut)
            break
        written.append(text)
        left -= len(text) + len(_COMMA)
    return brackets[0] + _COMMA.join(written) + brackets[1]


def _members_of(model: BaseModel) -> Iterable[tuple[str, Any]]:
    """The members of a model as on the wire, those that say something."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None:
            yield field.serialization_alias or field.alias or name, value
    yield from (model.model_extra or {}).items()
