"""JSON values: to and from text, and what kind one is."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeAlias

from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypeIs

Json: TypeAlias = Any
"""A value of JSON: `None`, a bool, int, float, str, list or dict."""


def is_object(value: Json) -> TypeIs[dict[str, Any]]:
    """Whether it is an object."""
    return isinstance(value, dict)


def is_array(value: Json) -> TypeIs[list[Any]]:
    """Whether it is an array."""
    return isinstance(value, list)


def encode(value: Json) -> bytes:
    """A value as JSON on one line.

    Raises:
        ValueError: It is nested too deeply, or no JSON.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        # Half of a surrogate pair, or nested deeply: Python's own knows how.
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no JSON: {type(error).__name__}") from error


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
