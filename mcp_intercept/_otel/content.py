"""Content as JSON of at most so many characters, whatever its size: what does not fit is neither read nor copied."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, RootModel
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

    What does not fit is cut: long texts are cut off, further members and items left out, both marked with `...`.

    Args:
        value: JSON-like data; or pydantic models, which are shown as on the wire.
        limit: At least `MIN_LENGTH`.
    """
    whole = _Writer(cuts=False).write(value, limit, 0)
    return _Writer(cuts=True).write(value, limit, 0) or _CUT_VALUE if whole is None else whole


class _Writer:
    """Writes values into a given room. One that does not cut gives up, with `None`, as soon as that is too small."""

    def __init__(self, *, cuts: bool) -> None:
        self._cuts = cuts

    def write(self, value: Any, room: int, depth: int) -> str | None:
        if isinstance(value, str):
            return self._text(value, room)
        if isinstance(value, BaseModel):
            if isinstance(value, RootModel):
                return self.write(value.__dict__["root"], room, depth)
            return self._object(_members_of(value), room, depth)
        if is_object(value):
            return self._object(value.items(), room, depth)
        if is_array(value):
            return self._array(value, room, depth)
        return self._other(value, room, depth)

    def _fitting(self, written: str, room: int) -> str | None:
        return written if len(written) <= room else self._nothing(room)

    def _nothing(self, room: int) -> str | None:
        return _CUT_VALUE if self._cuts and room >= len(_CUT_VALUE) else None

    def _text(self, text: str, room: int) -> str | None:
        if len(text) <= room:
            written = json.dumps(text)
            if len(written) <= room:
                return written
        if self._nothing(room) is None:
            return None
        start = json.dumps(text[:room])[1 : room - len(_CUT) - 1]
        while not _is_whole(start):
            start = start[:-1]
        return f'"{start}{_CUT}"'

    def _other(self, value: Any, room: int, depth: int) -> str | None:
        plain = _plain(value)
        if isinstance(plain, (str, dict, list)):
            return self.write(plain, room, depth)
        return self._fitting(json.dumps(plain), room)

    def _object(self, members: Iterable[tuple[Any, Any]], room: int, depth: int) -> str | None:
        def write(member: tuple[Any, Any], room: int) -> str | None:
            name = f"{json.dumps(_key(member[0])[: max(room, 0)])}: "
            value = self.write(member[1], room - len(name), depth + 1)
            return None if value is None else name + value

        return self._container("{}", members, write, _CUT_MEMBER, room, depth)

    def _array(self, items: Iterable[Any], room: int, depth: int) -> str | None:
        def write(item: Any, room: int) -> str | None:
            return self.write(item, room, depth + 1)

        return self._container("[]", items, write, _CUT_VALUE, room, depth)

    def _container(
        self,
        brackets: str,
        parts: Iterable[Any],
        write: Callable[[Any, int], str | None],
        cut: str,
        room: int,
        depth: int,
    ) -> str | None:
        if depth > _MAX_DEPTH:
            return self._nothing(room)
        left = room - len(brackets)
        # Whoever cuts keeps room for the mark of what is left out, and for a comma before it.
        reserve = len(_COMMA) + len(cut) if self._cuts else 0
        written: list[str] = []
        for part in parts:
            comma = len(_COMMA) if written else 0
            text = write(part, left - comma - reserve)
            if text is None:
                if not self._cuts or left < comma + len(cut):
                    return self._nothing(room)
                written.append(cut)
                break
            written.append(text)
            left -= comma + len(text)
        return self._fitting(brackets[0] + _COMMA.join(written) + brackets[1], room)


def _is_whole(start: str) -> bool:
    """Whether the start of a JSON text was not cut off within an escape."""
    try:
        json.loads(f'"{start}"')
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    """What is neither text nor container, as JSON has it; else as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)) or (isinstance(value, int) and abs(value) > _HUGE):
        return _name_of(value)
    try:
        return to_jsonable_python(value, fallback=_name_of, inf_nan_mode="strings")
    except Exception:
        return _name_of(value)  # it holds itself, or what is no text


def _name_of(value: object) -> str:
    return f"<{type(value).__name__}>"


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _members_of(model: BaseModel) -> Iterable[tuple[str, Any]]:
    """The members of a model as on the wire, those that say something."""
    for name, field in type(model).model_fields.items():
        value = model.__dict__.get(name)
        if value is not None and not field.exclude:
            yield field.serialization_alias or field.alias or name, value
    yield from (model.model_extra or {}).items()
