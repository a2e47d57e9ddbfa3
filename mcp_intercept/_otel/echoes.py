"""Keeps what a call says out of the message of the error that answers it: servers like to repeat what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mcp_intercept._otel.json_like import is_array, is_object

_MASK = "[...]"

# So many characters in a row that both have are no accident. Shorter texts are looked for as a whole; those below the
# second number are words like any other.
_WINDOW = 6
_MIN_LENGTH = 4

# A message longer than this is for no status, and a call with more texts than this is not searched.
_MAX_MESSAGE = 2000
_MAX_TEXTS = 1000
_MAX_LENGTH = 20_000

# What a message is addressed to, and what the protocol says, is no content.
_NO_CONTENT = frozenset({"name", "uri", "ref", "meta", "_meta", "cursor", "level", "task"})

# What pydantic shows of a value that it refuses, whatever that looks like.
_INPUT_VALUE = re.compile(r"input_value=.*(?=, input_type=)|input_value=.*", re.DOTALL)

_URI_PARTS = re.compile(r"(?<=://)[^/?#]*(?=@)|(?<=[?#]).*", re.DOTALL)


def without_echoes(message: str, params: Any) -> str | None:
    """`message` with everything masked that `params` say, too; `None` where that cannot be told.

    Args:
        message: That of an error.
        params: A params model, or a dict.
    """
    if len(message) > _MAX_MESSAGE:
        return None
    message = _INPUT_VALUE.sub(f"input_value={_MASK}", message)
    places: dict[str, list[int]] = {}
    for at in range(len(message) - _WINDOW + 1):
        places.setdefault(message[at : at + _WINDOW], []).append(at)
    hidden = bytearray(len(message))
    length = 0
    for count, text in enumerate(_texts_of(params)):
        length += len(text)
        if count >= _MAX_TEXTS or length > _MAX_LENGTH:
            return None
        for spelling in {text, json.dumps(text)[1:-1], repr(text)[1:-1]}:
            _hide(spelling, message, places, hidden)
    return _masked(message, hidden)


def _hide(text: str, message: str, places: dict[str, list[int]], hidden: bytearray) -> None:
    if _MIN_LENGTH <= len(text) < _WINDOW:
        for found in re.finditer(re.escape(text), message):
            hidden[found.start() : found.end()] = b"\1" * len(text)
    for at in range(len(text) - _WINDOW + 1):
        for place in places.get(text[at : at + _WINDOW], ()):
            hidden[place : place + _WINDOW] = b"\1" * _WINDOW


def _masked(message: str, hidden: bytearray) -> str:
    return re.sub(r"\0+", _MASK, "".join("\0" if hide else char for char, hide in zip(message, hidden, strict=True)))


def _texts_of(params: Any) -> Iterator[str]:
    fields: Any = params.__dict__ if isinstance(params, BaseModel) else params
    if not is_object(fields):
        return
    uri = fields.get("uri")
    if uri is not None:
        yield from _URI_PARTS.findall(str(uri))
    extra: dict[str, Any] = getattr(params, "model_extra", None) or {}
    for name, value in [*fields.items(), *extra.items()]:
        if name == "arguments" and is_object(value):
            # The names of arguments are those of the schema.
            for argument in value.values():
                yield from _leaves(argument)
        elif name not in _NO_CONTENT:
            yield from _leaves(value)


def _leaves(value: Any) -> Iterator[str]:
    waiting = [value]
    # One that holds itself has no end, nor has the list of its texts.
    for _ in range(_MAX_LENGTH):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, BaseModel):
            value = value.__dict__
        if is_object(value):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif is_array(value):
            waiting.extend(value)
        elif isinstance(value, str):
            yield value
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10**100:
            yield str(value)
    yield " " * (_MAX_LENGTH + 1)
