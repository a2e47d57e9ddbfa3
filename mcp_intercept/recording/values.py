"""JSON values: to and from text, which are equal, what kind one is, and what leads to a place within."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn, TypeAlias

from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypeIs

Json: TypeAlias = Any
"""A value of JSON: `None`, a bool, int, float, str, list or dict."""

ABSENT: Final[Json] = object()
"""Stands where there is no value at all."""

MOST_LEVELS: Final = 200
"""How deep a value in a cassette may be nested. What comes over a wire is not, as the SDK reads no more."""


_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_FLOAT = re.compile(r"\d[.eE]")


def is_object(value: Json) -> TypeIs[dict[str, Any]]:
    """Whether it is an object."""
    return isinstance(value, dict)


def is_array(value: Json) -> TypeIs[list[Any]]:
    """Whether it is an array."""
    return isinstance(value, list)


def as_object(value: Json) -> dict[str, Any] | None:
    """It, if it is an object."""
    return value if is_object(value) else None


def as_array(value: Json) -> list[Any]:
    """It, if it is an array; else an empty one."""
    return value if is_array(value) else []


def is_too_deep(value: Json) -> bool:
    """Whether it is nested more than `MOST_LEVELS` deep: so deep that others who read it would fail."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for container in level
            for item in (container.values() if is_object(container) else container)
            if is_object(item) or is_array(item)
        ]
        if not level:
            return False
    return True


def encode(value: Json) -> bytes:
    """A value as JSON on one line.

    Raises:
        ValueError: It is nested too deeply, or no JSON.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        # Half of a surrogate pair: Python's own knows how.
        try:
            text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no JSON: {type(error).__name__}") from error
        if is_too_deep(value):
            raise ValueError(f"nested more than {MOST_LEVELS} levels deep") from None
        return text


def decode(text: bytes) -> Json:
    """A value from JSON.

    Raises:
        ValueError: It is none, or nested too deeply.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def canonical(value: Json) -> str:
    """A text that is the same for values that are equal as JSON, and for no others.

    Raises:
        ValueError: It is nested too deeply, or no JSON.
    """
    try:
        text = _sorted(value)
        return _sorted(_whole(value)) if _FLOAT.search(text) else text
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no JSON: {type(error).__name__}") from error


def _whole(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_object(value):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if is_array(value) else value


def pointer_to(parent: str, name: str) -> str:
    """The JSON pointer (RFC 6901) to what is there by a name, from the pointer to that in which it is."""
    return f"{parent}/{name.replace('~', '~0').replace('/', '~1')}"


def parts_of_pointer(pointer: str) -> list[str]:
    """The names and indexes on the way that a JSON pointer leads."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
